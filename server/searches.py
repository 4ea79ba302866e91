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
    """

    def __init__(self, journal: Journal | None, stored: Callable[[], None], past: PastSearches | None = None) -> None:
        self._journal = journal
        self._stored = stored
        self._past = past

    def note(self, user_id: str, query: str) -> None:
        """Remember and store what a user has searched for."""
        search = WrittenSearch(uuid.uuid4().hex, user_id, query, time.time_ns() // 1_000_000)
        if self._past is not None:
            self._past.note(user_id, [PastSearch(query, search.at_ms)])
        if self._journal is None:
            return
        try:
            self._journal.append_search(search).add_done_callback(self._written)
        except KgrankError as error:
            _log.warning("search_not_stored", reason=type(error).__name__)

    def _written(self, written: "Future[list[Stored]]") -> None:
        failure = written.exception()
        if failure is None:
            self._stored()
        else:
            _log.warning("search_not_stored", reason=type(failure).__name__)
