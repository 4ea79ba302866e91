"""Answers that are given again: the same question of the same user, while nothing that it depends on has changed.

An answer is kept with all that it follows from, and is given again only where each of these is what it was: the engine
(a change of models or of the catalogue makes another), the rules in force, the user's history, by its version. Time
makes the rest: an answer is kept for a minute, where the user's vector is kept for an hour (`server.users`). Whoever is
forgotten takes all kept answers along, since reasons count what others did. What is kept has no attribution token: each
answer gets its own.

All users of whom nothing is known ask the same question, so that they share its answer.
"""

import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import chain

from server.engine import Engine
from server.question import Question, UserState
from server.rulebook import Effect

KEPT_FOR_S = 60.0
_OVERHEAD_BYTES = 2000
"""About what a question and its place take beside the answer's bytes and the names in the question."""

_MOST_IDS = 100
"""A question that names more products hardly comes twice, and to look for it takes as long as to answer it."""

_MOST_NAMED_BYTES = 4096
"""What the names in a filter and a context may take in memory: a question that has more hardly comes twice either."""

Heard = Callable[[str, UserState | None], None]
"""Hears of each question: `hit`, `miss` or `passed`, and of a hit how the user was known."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to a question is kept, and what it depends on.

    Args:
        key: the question, and what else the answer's bytes depend on.
        named_bytes: what the names in the question take in memory.
        engine: answers it.
        effect: of the rules in force.
        user_id: who asks, in `key` or not.
        version: of the user's history.
        forgotten: how often somebody was forgotten before.
    """

    key: Hashable
    named_bytes: int
    engine: "weakref.ref[Engine]"
    effect: Effect
    user_id: str
    version: int
    forgotten: int

    def holds(self, other: "Place") -> bool:
        """Return whether nothing has changed between two moments of the same question."""
        return (
            self.engine() is not None
            and self.engine() is other.engine()
            and self.effect is other.effect
            and (self.version, self.forgotten) == (other.version, other.forgotten)
        )

    def stands(self) -> bool:
        """Return whether the user's history is what it was: else the answer may tell of what is not in the key."""
        engine = self.engine()
        return engine is not None and engine.histories.version(self.user_id) == self.version


@dataclass(frozen=True, slots=True)
class _Kept:
    place: Place
    body: bytes
    state: UserState
    until_s: float

    @property
    def size(self) -> int:
        return len(self.body) + self.place.named_bytes + _OVERHEAD_BYTES


class KeptAnswers:
    """Serialised answers, the least lately asked for of which go first. Belongs to the event loop, but for `forget`.

    Args:
        most_bytes: in all; 0 keeps nothing.
        heard: counts.
        clock_s: the moment, in seconds.
    """

    def __init__(
        self,
        most_bytes: int,
        heard: Heard = lambda outcome, state: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heard = heard
        self._most_bytes = most_bytes
        self._clock_s = clock_s
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0
        self._forgotten = 0
        self._changing = threading.Lock()

    def place(self, engine: Engine, question: Question, how: Hashable) -> Place | None:
        """Return where a question's answer is kept, None where it can't be: it depends on this very moment.

        Args:
            engine: which answers it.
            question: as it was asked.
            how: what else the answer's bytes depend on: which call, with details, with how many reasons.
        """
        if not self._most_bytes:
            return None
        many = len(question.candidates or ()) + len(question.exclude) > _MOST_IDS
        named_bytes = 0 if many else _bytes_of(_names(question))
        many = many or named_bytes > _MOST_NAMED_BYTES
        if many or question.events or (question.seeds and question.user_id) or question.searched:
            self.heard("passed", None)
            return None
        histories, user_id = engine.histories, question.user_id
        version = histories.version(user_id)
        if user_id and not histories.length(user_id):
            question = replace(question, user_id="")
        named_bytes += _bytes_of([user_id, question.query, *(question.candidates or ()), *question.exclude])
        key = (how, engine.model_version, question)
        effect = engine.selection.effect()
        return Place(key, named_bytes, weakref.ref(engine), effect, user_id, version, self._forgotten)

    def get(self, place: Place | None) -> bytes | None:
        """Return the answer that is kept in a place, None where there is none that still holds."""
        if place is None:
            return None
        with self._changing:
            kept = self._kept.get(place.key)
            if kept is not None and kept.place.holds(place) and self._clock_s() < kept.until_s:
                self._kept.move_to_end(place.key)
            else:
                kept = None
        self.heard("miss", None) if kept is None else self.heard("hit", kept.state)
        return None if kept is None else kept.body

    def put(self, place: Place | None, body: bytes, state: UserState) -> None:
        """Keep an answer in the place that was made before it was worked out."""
        if place is None:
            return
        with self._changing:
            if place.forgotten != self._forgotten or not place.stands():
                return
            self._drop(place.key)
            kept = self._kept[place.key] = _Kept(place, body, state, self._clock_s() + KEPT_FOR_S)
            self._bytes += kept.size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Let everything go: other engines are in service."""
        with self._changing:
            self._kept.clear()
            self._bytes = 0

    def forget(self, user_id: str) -> None:
        """Let everything go, and what is being worked out too: it may tell of a user who is to be forgotten."""
        with self._changing:
            self._forgotten += 1
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


def _names(question: Question) -> Iterable[str]:
    """Return what a question's filter and context name."""
    named = question.filter
    values = chain.from_iterable((key, *values) for key, values in named.attributes)
    return chain(named.brands, named.categories, values, question.seeds, question.categories)


def _bytes_of(names: Iterable[str]) -> int:
    return sum(map(sys.getsizeof, names))
