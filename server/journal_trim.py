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
_CLOCK_AHEAD_MS = 300_000
"""An event that came later than this after the present moment came while the clock was wrong."""


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
        self._old_ms = self._first_young = 0  # no event before that offset came at that moment or later

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
            self._look_for_young(connection)
            connection.execute("BEGIN IMMEDIATE")
            (drained,) = connection.execute("SELECT drained FROM journal").fetchone()
            end = min(drained + 1, self._first_young)
            old = self._allowed[: min(AT_ONCE, bisect_left(self._allowed, end))]
            if old:
                connection.executemany("DELETE FROM event WHERE offset = ?", ((offset,) for offset in old))
                connection.execute(NOTE, (TRIMMED, old[-1]))
            connection.execute("COMMIT")
        if old:
            _log.info("journal_trimmed", events=len(old), until=old[-1])
        return len(old)

    def _look_for_young(self, connection: sqlite3.Connection) -> None:
        """Find the first event that is not old: a long search, so that nobody who writes waits for it.

        Of young ones the first may come late, where the clock was set back: then those before it wait for it. Of one
        that came while the clock was far ahead it is known only that it is older than those after it.
        """
        now_ms = time.time_ns() // 1_000_000
        old_ms = now_ms - self._kept_ms
        known = self._first_young if old_ms >= self._old_ms else 0
        # What is written from now on has higher offsets than these.
        (last,) = connection.execute("SELECT coalesce(max(offset), 0) FROM event").fetchone()
        found = connection.execute(
            "SELECT offset FROM event WHERE offset >= ? AND received_ms BETWEEN ? AND ? ORDER BY offset LIMIT 1",
            (known, old_ms, now_ms + _CLOCK_AHEAD_MS),
        ).fetchone()
        end = last + 1 if found is None else found[0]
        old = connection.execute(
            "SELECT offset FROM event WHERE offset < ? AND received_ms < ? ORDER BY offset DESC LIMIT 1", (end, old_ms)
        ).fetchone()
        self._old_ms, self._first_young = old_ms, 0 if old is None else old[0] + 1
