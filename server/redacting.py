"""Erased users out of this server's snapshots, in a thread of its own: rewriting one may take minutes.

Whatever waits is done together, so that a snapshot is rewritten once for many erasures. Nobody else waits for it: the
graph's threads go on meanwhile.
"""

import sqlite3
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from kg.erasure import Erasure
from kg.errors import SnapshotError
from kg.redaction import redact_all
from kg.user_keys import KeysOfFiles
from server.errors import NotServingError
from server.journal import Journal

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Waiting:
    erasures: Collection[Erasure]
    done: Future[bool]


class Redacting:
    """Takes erased users out of the snapshots. Safe to use from any thread.

    Args:
        snapshots: the folder of snapshots.
        journal: the own journal, which knows the erasures that were done here.
    """

    def __init__(self, snapshots: Path, journal: Journal) -> None:
        self._snapshots = snapshots
        self._journal = journal
        self._keys = KeysOfFiles()
        self._changing = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="redacting")
        self.redacted = True
        """Whether the snapshots have no erased user, as far as is known."""

    def redact(self, new: Collection[Erasure]) -> "Future[bool]":
        """Take users out of the snapshots, with those for whom that has failed before.

        Args:
            new: erasures that may not be in the journal yet.

        Returns:
            Done after that, with whether it could be done; the log has why not. Ends in `NotServingError` where this
            was closed first.
        """
        waiting = _Waiting(new, Future())
        waiting.done.set_running_or_notify_cancel()  # whoever waits no longer takes nothing back
        with self._changing:
            if self._closed:
                waiting.done.set_exception(_left())
            else:
                self._waiting.append(waiting)
                self._thread.submit(self._run)
        return waiting.done

    def leave(self) -> None:
        """Finish the snapshot that is being rewritten, and no other: what waits is left to the next start."""
        with self._changing:
            self._closed = True
            left, self._waiting = self._waiting, []
        for each in left:
            each.done.set_exception(_left())

    def close(self) -> None:
        """Leave, and wait until that snapshot is rewritten."""
        self.leave()
        self._thread.shutdown(wait=True)

    def _run(self) -> None:
        with self._changing:
            together, self._waiting = self._waiting, []
        if not together:
            return  # the one before took all
        try:
            self.redacted = self._redact([erasure for each in together for erasure in each.erasures])
        except BaseException as error:
            self.redacted = False
            if not isinstance(error, NotServingError):
                _log.error("snapshots_not_redacted", exc_info=error)  # not everybody waits for the end
            for each in together:
                each.done.set_exception(error)
        else:
            for each in together:
                each.done.set_result(self.redacted)

    def _redact(self, new: Collection[Erasure]) -> bool:
        try:
            redact_all(self._snapshots, [*self._journal.erasures(), *new], self._keys, self._before_each)
        except SnapshotError as error:
            _log.error("snapshot_not_redacted", reason=error.problem, remedy=error.remedy)
        except sqlite3.Error as error:
            _log.error("snapshot_not_redacted", reason=f"the journal failed: {error}", remedy="See to its disk.")
        else:
            return True
        return False

    def _before_each(self) -> None:
        if self._closed:
            raise _left()


def _left() -> NotServingError:
    return NotServingError("the server left before the snapshots were rewritten", "It is finished at its next start.")
