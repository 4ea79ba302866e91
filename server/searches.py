"""What users search for, written down as the events that they are, and never told to a log."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from kg.errors import KgrankError
from server.journal import Journal, Stored
from server.journal_file import WrittenSearch

_log = structlog.get_logger(__name__)


class SearchLog:
    """Stores searches on their way to the graph. Nobody waits for it: a search is answered whatever becomes of it.

    Args:
        journal: where they wait.
        stored: called when one is there, in the journal's thread.
    """

    def __init__(self, journal: Journal, stored: Callable[[], None]) -> None:
        self._journal = journal
        self._stored = stored

    def note(self, user_id: str, query: str) -> None:
        """Store what a user has searched for."""
        search = WrittenSearch(uuid.uuid4().hex, user_id, query, time.time_ns() // 1_000_000)
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
