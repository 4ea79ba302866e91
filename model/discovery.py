"""What is known of a user and a product that this user has not had: features of the pair, for the likeliest of them.

Of a user's candidates f(u, p) has, from the moment of ranking: how many had the product for the first time lately, and
how often it was had at all, each faded with several half-lives; at each level of its category's path, how much of what
the user does is there, lately and long since, how often something new was tried there, and how popular the category is;
and how near the product is to what the user had.

Candidates are the products that people came to lately, the nearest to the history (`model.neighbours`), and the
favourites of the categories that the user goes to. Nothing is said of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.schema import CHILD_OF, IN_CATEGORY
from kg.snapshot import Histories, Snapshot
from model.neighbours import strongest
from model.popularity import DAY_MS

HALF_LIVES_DAYS = (4.0, 10.0, 28.0, 112.0)
LEVELS = 3
"""A product's leaf category, and so many steps up from it less one."""

_AFFINITY_DAYS = (182.0, 28.0)
_TRIED_DAYS = 112.0
_COME_TO_DAYS = (10.0, 28.0)
_OF_KIND_DAYS = 28.0
MOMENT_WIDTH = 2 * len(HALF_LIVES_DAYS)
FEATURES = MOMENT_WIDTH + LEVELS * (len(_AFFINITY_DAYS) + 2) + 2

_POPULAR = 300
_NEAREST = 300
_KINDS = 30
_OF_EACH_KIND = 15
_LEAST = 0.01
_NONE = -1

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """The candidates of B users, compressed by user, each with F features.

    Shapes: `offsets [B + 1]` int64, `product_index [C]` int32 ascending and unique within a user, `features [C, F]`.
    """

    offsets: Int64s
    product_index: npt.NDArray[np.int32]
    features: Float32s


@dataclass(frozen=True)
class Moment:
    """A catalogue of P products as candidates are chosen from it, at one moment.

    Shapes: `had [P, 2 H]` how often each was had for the first time and at all, by half-life; `kind [P, LEVELS]` the
    category of each at each level, of K in all, -1 for none; `kind_popularity [K]` float32; `popular [·]` what people
    came to lately; `favourites [K, ·]` of each category what people came to there, -1 where there is no more.
    """

    had: Float32s
    kind: npt.NDArray[np.int32]
    kind_popularity: Float32s
    popular: npt.NDArray[np.int32]
    favourites: npt.NDArray[np.int32]

    def with_more(self, products: int) -> "Moment":
        """Return the same with further products, which nobody has had, and of which no category is known."""
        return replace(
            self,
            had=np.concatenate([self.had, np.full((products, MOMENT_WIDTH), np.log(_LEAST), np.float32)]),
            kind=np.concatenate([self.kind, np.full((products, LEVELS), _NONE, np.int32)]),
        )


def kinds_of(snapshot: Snapshot, exclude_relations: Sequence[str] = ()) -> npt.NDArray[np.int32]:
    """Return the category of each product at each level `[P, LEVELS]`, numbered from 0; -1 for none.

    Args:
        snapshot: products and facts.
        exclude_relations: facts that must not be seen.
    """
    product_count = len(snapshot.products)
    above = np.arange(snapshot.node_count)  # of the topmost: itself
    level = np.full(product_count, _NONE, np.int64)
    for name, into in ((IN_CATEGORY.type, level), (CHILD_OF.type, above)):
        edges = None if name in exclude_relations else snapshot.facts.get(name)
        if edges is not None:
            described = edges.head < len(into)
            into[edges.head[described]] = edges.tail[described]
    levels = []
    for _ in range(LEVELS):
        levels.append(level)
        level = np.where(level == _NONE, _NONE, above[level])
    # A category that stands at two levels is two kinds: its share of the one says nothing of the other.
    keys = np.stack([np.where(each == _NONE, _NONE, each * LEVELS + row) for row, each in enumerate(levels)], axis=1)
    found, number = np.unique(keys, return_inverse=True)
    return (number.reshape(keys.shape) - (len(found) > 0 and found[0] == _NONE)).astype(np.int32)


def moment_of(histories: Histories, now_ms: int, kind: npt.NDArray[np.int32]) -> Moment:
    """Return the catalogue at a moment at which all of these histories are known.

    Args:
        histories: of all users.
        now_ms: the moment.
        kind: `[P, LEVELS]` of `kinds_of`.
    """
    product_count = len(kind)
    age = np.maximum((now_ms - histories.at_ms) / DAY_MS, 0.0)  # days
    pairs, first = _first_times(histories.users_of_rows(), histories.product_index, age, product_count)
    at_all = {days: _faded(histories.product_index, age, days, product_count) for days in HALF_LIVES_DAYS}
    come_to = {days: _faded(pairs % product_count, first, days, product_count) for days in HALF_LIVES_DAYS}
    lately = come_to[_OF_KIND_DAYS]
    count = int(kind.max(initial=_NONE)) + 1
    kind_popularity = np.zeros(count)
    for level in kind.T:
        known = level != _NONE
        kind_popularity += np.bincount(level[known], lately[known], count)
    lists = [np.argsort(-come_to[days], kind="stable")[:_POPULAR] for days in _COME_TO_DAYS]
    return Moment(
        had=_log(np.stack([*come_to.values(), *at_all.values()], axis=1)),
        kind=kind,
        kind_popularity=_log(kind_popularity),
        popular=np.unique(np.concatenate(lists)).astype(np.int32),
        favourites=_favourites(kind[:, 0], lately, count),
    )


def pairs_of(histories: Histories, now_ms: Int64s, near: sparse.csr_matrix, moment: Moment) -> Pairs:
    """Return the candidates of B users with their features.

    Args:
        histories: of the B users.
        now_ms: `[B]` the moment to rank for.
        near: `[B, P]` how near products are to each history, columns ascending.
        moment: the catalogue.
    """
    users, product_count = histories.users_of_rows(), len(moment.kind)
    age = np.maximum((now_ms[users] - histories.at_ms) / DAY_MS, 0.0)
    pairs, first = _first_times(users, histories.product_index, age, product_count)
    habits = _habits(users, histories.product_index, age, pairs, first, moment)
    row, product = np.divmod(_candidates(near, habits, moment, pairs), product_count)
    active = 1 + np.bincount(users, np.exp2(-age / _AFFINITY_DAYS[-1]), len(histories))
    columns = list(moment.had[product].T)
    for kind in moment.kind[product].T:
        columns += [_log(each / active[row]) for each in habits.at(row, kind)]
    for kind in moment.kind[product].T:
        columns.append(np.where(kind == _NONE, np.float32(np.log(_LEAST)), np.append(moment.kind_popularity, 0)[kind]))
    nearness = _at(near, row, product)
    nearest = np.zeros(len(histories))
    np.maximum.at(nearest, row, nearness)
    columns += [_log(10 * nearness), nearness / np.maximum(nearest[row], 1e-9)]
    return Pairs(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(histories)))]).astype(np.int64),
        product_index=product.astype(np.int32),
        features=np.stack(columns, axis=1).astype(np.float32),
    )


@dataclass(frozen=True)
class _Habits:
    """How much of what B users do is in each of K categories: `key [A]` is `user * K + kind`, ascending.

    Shapes: `weight [len(_AFFINITY_DAYS) + 1, A]`: by half-life, and of what was had for the first time.
    """

    key: Int64s
    weight: Float64s
    kinds: int

    def at(self, row: Int64s, kind: Ints) -> Float64s:
        """Return the weights at some places `[·, C]`; 0 where there is none."""
        wanted = np.where(kind == _NONE, -1, row * self.kinds + kind)
        place = np.searchsorted(self.key, wanted)
        found = np.append(self.key, -2)[place] == wanted
        return np.where(found, np.pad(self.weight, ((0, 0), (0, 1)))[:, place], 0.0)


def _habits(
    users: Int64s, product_index: Ints, age: Float64s, pairs: Int64s, first: Float64s, moment: Moment
) -> _Habits:
    """Return the habits of users.

    Args:
        users: `[N]` whose each interaction is.
        product_index: `[N]` with which product.
        age: `[N]` how long ago, days.
        pairs: `user * P + product` of all of them, each once, ascending.
        first: how long ago each pair's first time was, days.
        moment: the catalogue.
    """
    count = len(moment.kind_popularity)

    def keys(user: Int64s, product: Ints) -> Int64s:
        kind = moment.kind[product].astype(np.int64)
        return np.where(kind == _NONE, -1, user[:, None] * count + kind)

    all_of_them = keys(users, product_index)
    key, place = np.unique(all_of_them, return_inverse=True)
    weights = [np.repeat(np.exp2(-age / days), LEVELS) for days in _AFFINITY_DAYS]
    weight = [np.bincount(place.ravel(), each, len(key)) for each in weights]
    came = np.searchsorted(key, keys(*np.divmod(pairs, len(moment.kind))))
    weight.append(np.bincount(came.ravel(), np.repeat(np.exp2(-first / _TRIED_DAYS), LEVELS), len(key)))
    known = slice(int(len(key) > 0 and key[0] == -1), None)
    return _Habits(key[known], np.asarray(np.stack(weight)[:, known], np.float64), count)


def _candidates(near: sparse.csr_matrix, habits: _Habits, moment: Moment, had: Int64s) -> Int64s:
    """Return `user * P + product` of the candidates of each user, ascending: none that the user had."""
    users, product_count = near.shape
    keys = [(np.arange(users)[:, None] * product_count + moment.popular).ravel()]
    # What a user had is near to itself, and takes places that it is struck from below.
    nearest = strongest(_without(near, had), _NEAREST)
    keys.append(_rows(nearest) * product_count + nearest.indices)
    user, kind = np.divmod(habits.key, max(habits.kinds, 1))
    has_favourites = moment.favourites[:, 0][kind] != _NONE  # categories of products are leaves; those above have none
    user, kind, weight = user[has_favourites], kind[has_favourites], habits.weight[0, has_favourites]
    order = np.lexsort((-weight, user))
    rank = np.arange(len(order)) - np.searchsorted(user, user)
    liked = order[rank < _KINDS]
    favourites = moment.favourites[kind[liked]]
    keys.append((user[liked][:, None] * product_count + favourites)[favourites != _NONE])
    return np.setdiff1d(np.concatenate(keys), had)


def _without(values: sparse.csr_matrix, keys: Int64s) -> sparse.csr_matrix:
    """Return sparse rows with zeros at some places, given as `row * columns + column`, ascending."""
    place = _rows(values) * values.shape[1] + values.indices
    kept = values.copy()
    kept.data[_contains(keys, place)] = 0
    return kept


def _contains(keys: Int64s, wanted: Int64s) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.append(keys, -1)[np.searchsorted(keys, wanted)] == wanted
    return found


def _first_times(users: Int64s, product_index: Ints, age: Float64s, product_count: int) -> tuple[Int64s, Float64s]:
    """Return `user * P + product` of each pair, once, ascending, and the age of its first time, days."""
    pairs, pair = np.unique(users * product_count + product_index, return_inverse=True)
    first = np.zeros(len(pairs))
    np.maximum.at(first, pair, age)
    return pairs, first


def _faded(product_index: Ints, age: Float64s, days: float, product_count: int) -> Float64s:
    return np.asarray(np.bincount(product_index, np.exp2(-age / days), product_count), np.float64)


def _favourites(leaf: npt.NDArray[np.int32], popularity: Float64s, count: int) -> npt.NDArray[np.int32]:
    """Return the most popular products of each leaf category `[K, ·]`, -1 where there is no more."""
    order = np.lexsort((-popularity, leaf))
    order = order[leaf[order] != _NONE]
    sizes = np.bincount(leaf[order], minlength=count)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(order)) - starts[leaf[order]]
    first = rank < _OF_EACH_KIND
    favourites = np.full((count, _OF_EACH_KIND), _NONE, np.int32)
    favourites[leaf[order[first]], rank[first]] = order[first]
    return favourites


def _at(values: sparse.csr_matrix, row: Int64s, column: Ints) -> Float64s:
    """Return the values at some places; 0 where there is none, or no such column."""
    width = max(values.shape[1], 1)
    keys = _rows(values) * width + values.indices
    wanted = np.where(column == _NONE, -1, row * width + column)
    place = np.searchsorted(keys, wanted)
    found = np.append(keys, -2)[place] == wanted
    return np.where(found, np.append(values.data, 0)[place], 0.0)


def _rows(values: sparse.csr_matrix) -> Int64s:
    return np.repeat(np.arange(values.shape[0], dtype=np.int64), np.diff(values.indptr))


def _log(values: npt.NDArray[np.floating]) -> Float32s:
    logged: Float32s = np.log(values + _LEAST).astype(np.float32)
    return logged
