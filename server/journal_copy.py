"""What is committed goes from the journal's write-ahead log into its database, beside the writing."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

_log = structlog.get_logger(__name__)

LONGEST_LOG_PAGES = 16_384
"""Pages of the log (64 MiB) from which on whoever commits copies it after all, as SQLite does from 1,000."""

_EACH_S = 1.0


class JournalCopy:
    """Copies in a thread of its own: it syncs another file, which may take half a second.

    Nobody who waits for an event should wait for that.

    Args:
        connection: opens the journal.
        each_time: called every second or so, in the same thread; whatever else need not be waited for.
    """

    def __init__(
        self,
        connection: Callable[[], AbstractContextManager[sqlite3.Connection]],
        each_time: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._each_time = each_time
        self._wanted = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-copy", daemon=True)
        self._thread.start()

    def want(self) -> None:
        """Say that something was committed."""
        self._wanted.set()

    def close(self) -> None:
        """Stop; what is not copied then is when the journal's last connection ends."""
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._leaving.wait(_EACH_S):
            if self._wanted.is_set():
                self._wanted.clear()
                if not self._copied():
                    self._wanted.set()
            try:
                self._each_time()
            except Exception:  # without this thread whoever writes would copy
                _log.exception("journal_not_tended")

    def _copied(self) -> bool:
        """Copy; return whether everything was: a reader of something older keeps the rest back."""
        try:
            with self._connection() as connection:
                _, in_log, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # a full disk: the log keeps what is committed
            _log.warning("journal_not_copied", error=str(error), next_attempt_s=_EACH_S)
            return False
        return bool(in_log == copied)
