"""What a journal may forget: events that the graph has, that every model can do without, and that have grown old."""

import sqlite3
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import structlog

from server.journal_file import NOTE, TRIMMED

_log = structlog.get_logger(__name__)

AT_ONCE = 5_000
"""Events of one transaction: nobody who writes should wait for more."""

_LATER_S = 3_600.0


class JournalTrim:
    """Forgets events little by little. Safe to use from any thread.

    Args:
        connection: opens the journal.
        kept_ms: how long events stay, whoever can do without them.
        clock_s: the moment, in seconds.
    """

    def __init__(
        self,
        connection: Callable[[], AbstractContextManager[sqlite3.Connection]],
        kept_ms: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._kept_ms = kept_ms
        self._clock_s = clock_s
        self._one_at_a_time = threading.Lock()
        self._allowed: Sequence[int] = ()
        self._next_s = 0.0

    def allow(self, offsets: Sequence[int]) -> None:
        """Let events go once they are old, these and no others.

        Args:
            offsets: ascending; their events are in each snapshot that a model may need.
        """
        with self._one_at_a_time:
            self._allowed, self._next_s = array("q", offsets), 0.0

    def go_on(self) -> None:
        """Forget some events that may go; to be called every second. Their ids are no longer known as duplicates."""
        with self._one_at_a_time:
            if not self._allowed or self._clock_s() < self._next_s:
                return
            try:
                gone = self._forget_some()
            except sqlite3.Error as error:  # it is only longer than it need be
                _log.warning(
                    "journal_not_trimmed", error=str(error), remedy="Check the disk and the file's permissions."
                )
                gone = 0
            self._allowed = self._allowed[gone:]
            if gone < AT_ONCE:
                self._next_s = self._clock_s() + _LATER_S

    def _forget_some(self) -> int:
        """Forget the first events that may go, are old, and are in the graph; return how many of those allowed."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            old_ms = time.time_ns() // 1_000_000 - self._kept_ms
            # Of young ones the first may come late, where the clock was set back: then those before it wait for it.
            young = connection.execute(
                "SELECT offset FROM event WHERE received_ms >= ? ORDER BY offset LIMIT 1", (old_ms,)
            ).fetchone()
            (drained,) = connection.execute("SELECT drained FROM journal").fetchone()
            end = drained + 1 if young is None else min(drained + 1, young[0])
            old = self._allowed[: min(AT_ONCE, bisect_left(self._allowed, end))]
            if old:
                connection.executemany("DELETE FROM event WHERE offset = ?", ((offset,) for offset in old))
                connection.execute(NOTE, (TRIMMED, old[-1]))
            connection.execute("COMMIT")
        if old:
            _log.info("journal_trimmed", events=len(old), until=old[-1])
        return len(old)
