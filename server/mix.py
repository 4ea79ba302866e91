"""A list put together out of well ranked products: pins, diversity, caps, and a share for new products.

Products are taken one by one. Diversity is maximal marginal relevance (Carbonell and Goldstein 1998): of what is left,
the one with the largest

    (1 − d) s(p) − d · range(s) · max over those taken before of cos(p, q)

comes next. Divided by 1 − d that is the score less a penalty, which is the component `diversity`; so the list stays
sorted by its scores. A cap passes over products; a pin or a share for new products puts one where it would not have
come by itself, and the component `rule` or `exploration` is what that takes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.question import Mix

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_MOST_DIVERSE = 0.999  # 1 would leave the scores out altogether, and divide by zero


@dataclass(frozen=True)
class Pool:
    """Well ranked products, best first.

    Shapes, N products: `score [N]`; `brand [N]` and `category [N]` their numbers, -1 for none; `fresh [N]` those that
    few users have had; `inside [N]` those that diversity chooses among, and `vectors [V, D]` theirs, with likeness as
    inner product, of no width where nothing asks for it; `sure [N]` those that nothing outside the pool is ahead of:
    the others are there for the places of pins and new products alone.
    """

    score: Float32s
    brand: npt.NDArray[np.int32]
    category: npt.NDArray[np.int32]
    fresh: Bools
    inside: Bools
    vectors: Float32s
    sure: Bools


@dataclass(frozen=True)
class Arranged:
    """A list: `place [K]` rows of the pool, first to last, and what is added to their scores, `[K]` each."""

    place: Int64s
    diversity: Float32s
    exploration: Float32s
    rule: Float32s


def arrange(pool: Pool, k: int, mix: Mix, pins: Sequence[tuple[int, int]] = ()) -> Arranged:
    """Return the k first of a list; fewer where the pool or the caps allow no more. Pins count in caps, and stay.

    Args:
        pool: what there is to choose from.
        k: how many.
        mix: how the list is put together.
        pins: pairs of a position, from 1, and the row of the pool that stands there.
    """
    pinned = {position - 1: row for position, row in pins if position <= k}
    count = min(k, len(pool.score))
    slots = _fresh_slots(pool, count, mix.exploration_share, pinned)
    taken = _Taken(pool, mix, list(pinned.values()))
    places: list[int] = []
    end = 0
    while end < count:
        row = pinned.get(end)
        if row is None:
            row = taken.next(fresh=end in slots)
            if row is None:  # the caps leave nothing
                break
        else:
            taken.count_likeness(row)
        places.append(row)
        end += 1
    # A list too short for a pin's position ends with it.
    places += [row for position, row in sorted(pinned.items()) if position >= end]
    return _with_components(pool, taken, places, set(pinned.values()))


class _Taken:
    """What is in the list so far."""

    def __init__(self, pool: Pool, mix: Mix, pinned: Sequence[int]) -> None:
        self._pool = pool
        self._mix = mix
        self._left = np.ones(len(pool.score), np.bool_)
        self._left[list(pinned)] = False
        self._brands: Counter[int] = Counter()
        self._categories: Counter[int] = Counter()
        self.penalty = np.zeros(len(pool.score), np.float32)
        self._inside = np.flatnonzero(pool.inside)
        self._last = np.float32(np.inf)
        dial = min(mix.diversity, _MOST_DIVERSE)
        scores = pool.score[self._inside]
        spread = float(scores.max() - scores.min()) if len(scores) else 0.0
        self._weight = dial / (1 - dial) * (spread or 1.0)
        for row in pinned:
            self._count(row)

    def next(self, *, fresh: bool) -> int | None:
        """Take the row that comes next by itself, a fresh one if asked for and there is one; None where none may."""
        row = self._best(self._left & self._pool.fresh) if fresh else None
        if row is None:
            row = self._best(self._left & self._pool.sure)
            if row is None:
                return None
            if self._weight and not self._pool.inside[row]:  # behind those that diversity has put behind
                self.penalty[row] = min(np.float32(0), self._last - self._pool.score[row])
            self._last = self._pool.score[row] + self.penalty[row]
        self._left[row] = False
        self._count(row)
        self.count_likeness(row)
        return row

    def count_likeness(self, row: int) -> None:
        """Let a row that is in the list count against what is like it."""
        if not self._weight or not self._pool.inside[row]:
            return
        own = self._pool.vectors[np.searchsorted(self._inside, row)]
        likeness = np.maximum(self._pool.vectors @ own, 0) * self._weight
        left = self._left[self._inside]
        rows = self._inside[left]
        self.penalty[rows] = np.minimum(self.penalty[rows], -likeness[left])

    def _best(self, may: Bools) -> int | None:
        """Return the row of the best worth, of those that diversity chooses among as long as there are any."""
        if self._weight and (may & self._pool.inside).any():
            may = may & self._pool.inside
        worth = np.where(may, self._pool.score + self.penalty, -np.inf)
        row = int(worth.argmax()) if len(worth) else 0
        return row if len(worth) and may[row] else None

    def _count(self, row: int) -> None:
        """Count a row in the caps, and close those that it fills."""
        pool, mix = self._pool, self._mix
        for number, counts, most in (
            (int(pool.brand[row]), self._brands, mix.max_per_brand),
            (int(pool.category[row]), self._categories, mix.max_per_category),
        ):
            counts[number] += 1
            if most is not None and number >= 0 and counts[number] >= most:
                column = pool.brand if counts is self._brands else pool.category
                self._left[column == number] = False


def _fresh_slots(pool: Pool, count: int, share: float, pinned: Mapping[int, int]) -> set[int]:
    """Return the positions that are for new products: spread evenly, from the end of each stretch, no pin's."""
    number = min(round(share * count), int(pool.fresh.sum()))
    if not number:
        return set()
    free = [position for position in range(count) if position not in pinned]
    ends = np.ceil(np.arange(1, number + 1) * len(free) / number).astype(int) - 1
    return {free[end] for end in ends.tolist() if 0 <= end < len(free)}


def _with_components(pool: Pool, taken: _Taken, places: list[int], pinned: set[int]) -> Arranged:
    """Return the list with what each place takes: no product may score below the one after it."""
    rows = np.array(places, np.int64)
    diversity = taken.penalty[rows] if len(rows) else np.empty(0, np.float32)
    score = pool.score[rows] + diversity
    is_pinned = np.array([row in pinned for row in places], np.bool_)
    own = score.copy()
    # A pin takes the score of what follows by itself (of what precedes, at the end): it stands there whatever it had.
    following = -np.inf
    for position in range(len(rows) - 1, -1, -1):
        if is_pinned[position]:
            own[position] = following
        own[position] = max(own[position], following)
        following = own[position]
    for position in range(len(rows)):
        if not np.isfinite(own[position]):
            own[position] = own[position - 1] if position else score[position]
    lifted = own - score
    nothing = np.zeros(len(rows), np.float32)
    return Arranged(
        rows,
        diversity.astype(np.float32),
        np.where(is_pinned, nothing, lifted).astype(np.float32),
        np.where(is_pinned, lifted, nothing).astype(np.float32),
    )
