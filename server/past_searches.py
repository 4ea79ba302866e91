"""What users have searched for lately, which counts in what they are recommended next.

    lean(u) = Σ_s w_s t(q_s) / max(1, Σ_s w_s),    w_s = 2^(−age of s / half-life)

over the latest searches s of a user, with t(q) the query's vector in the text component (`server.search.meaning`): a
fresh search counts in full, several share the same weight, and each fades. What a lean adds to a product's score is its
inner product with the product's text, times `serve.past_search_weight` standard deviations of the user's scores.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

KEPT_OF_A_USER = 5
MOST_BYTES = 64 << 20
FADED = 1 / 64
"""A search that counts less is forgotten: six half-lives."""

_HOUR_MS = 3_600_000
_OVERHEAD_BYTES = 400
"""About what a user's place takes beside the words."""


@dataclass(frozen=True, slots=True)
class PastSearch:
    """What was typed, and when, in milliseconds since the epoch."""

    query: str
    at_ms: int


class PastSearches:
    """The latest searches of users; who has searched longest ago goes first. Safe to share between threads.

    Args:
        half_life_hours: after which a search counts half.
        clock_ms: the moment.
        most_bytes: in all.
    """

    def __init__(
        self,
        half_life_hours: float,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._half_life_ms = half_life_hours * _HOUR_MS
        self._clock_ms = clock_ms
        self._of_user: OrderedDict[str, tuple[PastSearch, ...]] = OrderedDict()
        self._bytes = 0
        self._most_bytes = most_bytes
        self._changing = threading.Lock()
        self._heeded: list[set[str]] = []

    @property
    def kept_ms(self) -> int:
        """How long a search counts."""
        return round(self._half_life_ms * 6)

    def note(self, user_id: str, searches: Iterable[PastSearch]) -> None:
        """Take searches of a user, in any order; one that is here already counts once."""
        oldest_ms = self._clock_ms() - self.kept_ms
        with self._changing:
            known = {*self._taken(user_id), *(each for each in searches if each.at_ms > oldest_ms)}
            # The same words again count from the last time.
            latest = {each.query: each for each in sorted(known, key=lambda each: each.at_ms)}
            kept = sorted(latest.values(), key=lambda each: (-each.at_ms, each.query))[:KEPT_OF_A_USER]
            if kept:
                self._of_user[user_id] = tuple(kept)
                self._bytes += _size(user_id, kept)
            while self._bytes > self._most_bytes:
                self._taken(next(iter(self._of_user)))

    def of(self, user_id: str) -> tuple[tuple[str, float], ...]:
        """Return what a user has searched for, the latest first, each with its weight, above 0 and up to 1."""
        now_ms = self._clock_ms()
        weighed = (
            (each.query, float(min(1.0, 2 ** ((each.at_ms - now_ms) / self._half_life_ms))))
            for each in self.kept_of(user_id)
        )
        return tuple((query, weight) for query, weight in weighed if weight > FADED)

    def kept_of(self, user_id: str) -> tuple[PastSearch, ...]:
        """Return the searches of a user that are here, the latest first, also those that count no more."""
        return self._of_user.get(user_id, ())

    def forget(self, user_id: str) -> None:
        """Forget what a user has searched for."""
        with self._changing:
            self._taken(user_id)
            for forgotten in self._heeded:
                forgotten.add(user_id)

    @contextmanager
    def forgotten(self) -> Iterator[set[str]]:
        """Gather who is forgotten while the block runs: what it has read of them before must not be noted."""
        gathered: set[str] = set()
        with self._changing:
            self._heeded.append(gathered)
        try:
            yield gathered
        finally:
            with self._changing:
                self._heeded = [each for each in self._heeded if each is not gathered]

    def users(self) -> set[str]:
        """Return the ids of the users whose searches are here."""
        with self._changing:
            return set(self._of_user)

    def _taken(self, user_id: str) -> tuple[PastSearch, ...]:
        searches = self._of_user.pop(user_id, ())
        if searches:
            self._bytes -= _size(user_id, searches)
        return searches


def _size(user_id: str, searches: Sequence[PastSearch]) -> int:
    return _OVERHEAD_BYTES + len(user_id) + sum(len(each.query) + _OVERHEAD_BYTES for each in searches)
