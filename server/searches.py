"""What users search for, written down as the events that they are, and never told to a log."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from kg.errors import KgrankError
from server.journal import Journal
from server.journal_file import WrittenSearch
from server.journal_insert import Stored
from server.past_searches import PastSearch, PastSearches

_log = structlog.get_logger(__name__)


class SearchLog:
    """Stores searches on their way to the graph. Nobody waits for it: a search is answered whatever becomes of it.

    Args:
        journal: where they wait; None: they are remembered, and stored nowhere.
        stored: called when one is there, in the journal's thread.
        past: remembers them; None: they change no later answer.
        most_waiting: searches that wait for the graph before new ones are stored nowhere.
        lost: called with the reason for each that is not stored, from any thread.
    """

    def __init__(
        self,
        journal: Journal | None,
        stored: Callable[[], None],
        past: PastSearches | None,
        most_waiting: int,
        lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._journal = journal
        self._stored = stored
        self._past = past
        self._most_waiting = most_waiting
        self._lost = lost
        self._left_out = 0  # since the last that found room

    def note(self, user_id: str, query: str) -> None:
        """Remember and store what a user has searched for."""
        search = WrittenSearch(uuid.uuid4().hex, user_id, query, time.time_ns() // 1_000_000)
        if self._past is not None:
            self._past.note(user_id, [PastSearch(query, search.at_ms)])
        if self._journal is None:
            return
        if self._journal.searches_behind >= self._most_waiting:
            self._leave_out()
            return
        if self._left_out:
            _log.warning("searches_stored_again", left_out=self._left_out)
            self._left_out = 0
        try:
            self._journal.append_search(search).add_done_callback(self._written)
        except KgrankError as error:
            self._failed(error)

    def _leave_out(self) -> None:
        """Count a search that finds no room, and say once that they find none."""
        if not self._left_out:
            remedy = "The graph takes them when it is back; look at it."
            _log.error("searches_left_out", waiting=self._most_waiting, remedy=remedy)
        self._left_out += 1
        self._lost("behind")

    def _failed(self, error: BaseException) -> None:
        _log.warning("search_not_stored", reason=type(error).__name__)
        self._lost("failed")

    def _written(self, written: "Future[list[Stored]]") -> None:
        failure = written.exception()
        if failure is None:
            self._stored()
        else:
            self._failed(failure)
