"""From the journal to the graph: in order, in batches, each once; events and searches take turns.

A batch and the journal's offset are committed in one transaction of the graph, so that a crash on either side repeats
nothing and loses nothing. While the graph is away, events wait in the journal; the wait between attempts grows.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import pyarrow as pa
import structlog

from kg.errors import KgrankError
from kg.tables import INTERACTIONS
from server.journal import Journal
from server.journal_file import TRIMMED, JournalFile, StoredEvent

_log = structlog.get_logger(__name__)

BATCH = 1000
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
AFTER_FILES = 1 << 40
"""Added to an offset to give a position: at equal times an event comes after rows loaded from files."""


class EventStore(Protocol):
    """What the drain needs of `kg.store.Graph`."""

    def append_events(self, interactions: pa.Table, journal: str, offset: int, received_ms: Sequence[int]) -> int:
        """Store events, and how far the journal has been taken, in one transaction; return how many were new.

        One that was received (ms since the epoch) before its user was erased is left out.
        """

    def append_searches(self, searches: Sequence[tuple[str, str, str, int]]) -> None:
        """Store searches, each once: event id, user id, what was typed, when."""

    def journal_offset(self, journal: str) -> int:
        """Return how far a journal has been taken, 0 if not at all."""


class Drain:
    """A thread that takes events from the journal to the graph.

    Args:
        journal: where events come from.
        connect: opens the graph; called again after each failure.
        configured: whether there is a graph at all, so that what stays in the journal is to be told.
    """

    def __init__(
        self,
        journal: Journal,
        connect: Callable[[], AbstractContextManager[EventStore]],
        *,
        configured: bool = True,
    ) -> None:
        self._journal = journal
        self._connect = connect
        self._configured = configured
        self._wake = threading.Event()
        self._leaving = threading.Event()
        self._retry = threading.Event()
        self._batch = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def start(self) -> None:
        """Start the thread, or let it try again now; whatever the journal holds is taken first."""
        if self._thread.ident is None:
            self._thread.start()
        self._retry.set()
        self._wake.set()

    def paused(self) -> AbstractContextManager[object]:
        """Return a context in which no events are on their way from the journal to the graph."""
        return self._batch

    def wake(self) -> None:
        """Tell that the journal has new events."""
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Take what is in the journal to a graph that answers, then stop; give up after a while."""
        self._leaving.set()
        self._wake.set()
        self._retry.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with suppress(sqlite3.Error):
            self._tell_what_is_left()

    def _tell_what_is_left(self) -> None:
        """Log what the graph lacks of this journal, whether or not it was ever there."""
        left = {
            "events": self._journal.undrained(),
            "searches": self._journal.searches_waiting(),
            "erasures": len(self._journal.pending_erasures()),
        }
        if self._configured and any(left.values()):
            _log.warning("journal_left", **left, remedy="Start a server with this journal again.")

    def _run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                with self._connect() as graph:
                    self._retry.clear()
                    offset = self._resume(graph)
                    _log.info("drain_connected", offset=offset)
                    wait_s = _FIRST_WAIT_S
                    self._drain(graph, offset)
                if self._leaving.is_set():
                    return
                continue
            except KgrankError as error:
                _log.warning("drain_waits", reason=error.problem, remedy=error.remedy, next_attempt_s=wait_s)
            except Exception:
                # A defect must not end the drain for good: events would pile up unseen.
                _log.exception("drain_failed", next_attempt_s=wait_s)
            self._retry.wait(wait_s)
            self._retry.clear()
            if self._leaving.is_set():
                return
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _resume(self, graph: EventStore) -> int:
        """Return the offset after which the graph lacks this journal's events, whichever of the two is an older one."""
        journal = self._journal
        offset, last = graph.journal_offset(journal.name), journal.handed()[journal.name]
        if offset > last:  # what the file had at these offsets before it was put back from a copy was something else
            _log.warning("journal_begins_anew", graph_offset=offset, journal_offset=last)
            journal.begin_anew()
            return graph.journal_offset(journal.name)
        if offset > journal.drained:  # it took them, and the server was killed before that was noted
            journal.set_drained(offset)
        if offset < journal.drained:
            # It was restored from a backup; what it has forgotten is still here.
            _log.warning("graph_went_back", graph_offset=offset, drained=journal.drained)
            tell_of_trimmed(journal, graph)
            journal.set_drained(offset)
        return offset

    def _drain(self, graph: EventStore, offset: int) -> None:
        """Take events until the server leaves, or the graph is another one."""
        while True:
            self._wake.clear()
            # A batch of each in turn: either may come faster than it is taken, and the other waits for one batch of it.
            taken = self._take(graph, offset)
            try:
                searched = self._take_searches(graph)
            except KgrankError:  # searches wait for another attempt, and no event with them
                self._take_present(graph, taken)
                raise
            if searched or taken > offset:
                offset = taken
                continue
            if self._leaving.is_set() or self._retry.is_set():
                return
            self._wake.wait()

    def _take_present(self, graph: EventStore, offset: int) -> None:
        """Take the events after an offset that are there now; more may come as fast as they are taken."""
        last = self._journal.last_offset
        while offset < last and (taken := self._take(graph, offset)) > offset:
            offset = taken

    def _take_searches(self, graph: EventStore) -> bool:
        """Take a batch of searches, which leave the journal; return whether there were any."""
        with self._batch:
            searches = self._journal.searches(BATCH)
            if searches:
                graph.append_searches([(s.event_id, s.user_id, s.query, s.at_ms) for s in searches.values()])
                self._journal.forget_searches(list(searches))
            return bool(searches)

    def _take(self, graph: EventStore, offset: int) -> int:
        """Take a batch of events after an offset; return the offset of the last."""
        with self._batch:
            events = self._journal.read(offset, BATCH)
            if events:
                offset = events[-1].offset
                self._journal.note_handed(offset)
                received_ms = [each.received_ms for each in events]
                left_out = len(events) - graph.append_events(rows(events), self._journal.name, offset, received_ms)
                if left_out:  # another server wrote them, too, or has erased their user
                    _log.info("events_left_out", count=left_out)
                self._journal.drained_to(offset, len(events))
            return offset


def tell_of_trimmed(journal: JournalFile, graph: EventStore) -> None:
    """Log it where a graph lacks events of a journal that the journal no longer has.

    The graph may have taken them under a name that the journal had before.
    """
    had = max(min(graph.journal_offset(name), handed) for name, handed in journal.handed().items())
    if had < journal.noted(TRIMMED):
        _log.error(
            "graph_lacks_trimmed_events",
            remedy="The graph's backup is older than what the journal keeps: restore a newer one.",
        )


def rows(events: list[StoredEvent]) -> pa.Table:
    """Return events as a table of interactions."""
    return pa.table(
        {
            "user_id": [each.event.user_id for each in events],
            "product_id": [each.event.product_id for each in events],
            "type": [str(each.event.type) for each in events],
            "at_ms": [each.event.at_ms for each in events],
            "value": pa.array([each.event.value for each in events], pa.float32()),
            "position": [AFTER_FILES + each.offset for each in events],
            "event_id": [each.event.event_id for each in events],
        },
        schema=INTERACTIONS,
    )
