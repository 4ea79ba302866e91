"""The best k products of the whole catalogue for a batch of users: the nearest by vector, and what is added.

A product's score is an inner product and a sparse part, which few products have. So the best are among the nearest by
inner product (`model.scan`) and the products of the sparse part; these are scored exactly, unless even the inner
product of the last of the nearest, which no product beyond them is above, could not lift them up. How coarse the scan
may be is not guessed: an index takes the cheapest plan whose recall on held-out users, sparse part and all, reaches
`RECALL`, when it is built and whenever its scan is made anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.scan import Factors, Scan, best_of, factorise, inner_products
from model.scoring import ScoringModel, UserVectors

RECALL = 0.995
"""Of the true best of held-out users; the budget is .99."""

JUDGED_AT = (10, 100)
EXACT_BELOW = 8192
"""Smaller catalogues are scanned in float32: that takes no longer."""

FEWEST_USERS = 32
"""What fewer say of a coarse scan says little of others: it is exact."""

MOST_FRESH = 0.01
"""The share of the products that may stand beside the scan, each scored exactly, before it is made anew."""

_LEAST_FRESH = 256
_LENGTHS = (10, 20, 50, 100, 200, 500, 1000)
_DEEPEST_FOR_TIES = 1_000
"""Of large catalogues: of more products that score the same as the last of a list, any may be in it."""

_TABLES = (64, 96, 128, 192, 256)
_OVERSAMPLING = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8)

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """How coarse the scan is.

    Args:
        tables: of the scan; None for an exact one.
        oversampling: by the length of lists (of `JUDGED_AT`), how many candidates it brings for each one kept.
    """

    tables: int | None
    oversampling: Mapping[int, float]

    def candidates(self, k: int, kept: int) -> int:
        """Return how many candidates are scored exactly to keep some of them for a list of k."""
        suits = min((each for each in self.oversampling if each >= k), default=max(self.oversampling))
        return int(kept * self.oversampling[suits])


EXACT = Plan(None, {max(JUDGED_AT): 1})


@dataclass(frozen=True)
class Jury:
    """Held-out users who judge how coarse a scan may be, and what it sees of the products."""

    users: UserVectors
    factors: Factors


@dataclass(frozen=True)
class Found:
    """The best products of a batch: `product_index [B, K]` and `score [B, K]`, best first, -inf where there is none.

    Equal scores stand in the order of the products.
    """

    product_index: Int64s
    score: Float32s


class ProductIndex:
    """The catalogue, ready to be searched; belongs to one thread at a time.

    Args:
        matrix: `[P, D]` float32, the products.
        scan: over the same products, or over those that were there when it was made.
        plan: how the scan was made.
        jury: who judged that plan; None where the scan is exact.
        fresh: products that are not in the scan, or otherwise; they are scored exactly.
    """

    def __init__(
        self, matrix: Float32s, scan: Scan, plan: Plan, jury: Jury | None = None, fresh: Int64s | None = None
    ) -> None:
        self.matrix = matrix
        self.plan = plan
        self._scan, self._jury = scan, jury
        self._fresh = np.empty(0, np.int64) if fresh is None else fresh
        self._stale = np.zeros(len(matrix), np.bool_)
        self._stale[self._fresh] = True

    def __len__(self) -> int:
        return len(self.matrix)

    @classmethod
    def build(cls, model: ScoringModel, sample: UserVectors) -> "ProductIndex":
        """Choose the cheapest plan that finds the true best of held-out users, few and many of them.

        Args:
            model: its products.
            sample: vectors of users like those to come; half shape the scan, half judge it. With few the scan is exact.
        """
        matrix = np.ascontiguousarray(model.matrix.numpy())
        if len(matrix) < EXACT_BELOW or len(sample) < FEWEST_USERS:
            return cls(matrix, Scan(matrix), EXACT)
        half = len(sample) // 2
        factors = factorise(matrix, sample.vectors.numpy()[:half])
        return cls._judged(matrix, Jury(sample.take(np.arange(half, len(sample))), factors), Plan(0, {}))

    @classmethod
    def _judged(cls, matrix: Float32s, jury: Jury, least: Plan) -> "ProductIndex":
        """Return an index by the cheapest plan that the jury finds good enough, of those not cheaper than `least`."""
        width, truth = matrix.shape[1], _true_best(matrix, jury.users, max(JUDGED_AT))
        for tables in [*(each for each in _TABLES if each < 0.8 * width), width]:
            if tables < (least.tables or 0):
                continue
            scan, enough = Scan(matrix, jury.factors, tables), {}
            for k in JUDGED_AT:
                cheapest = least.oversampling[k] if tables == least.tables else 0
                for oversampling in (each for each in _OVERSAMPLING if each >= cheapest):
                    tried = cls(matrix, scan, Plan(tables, {k: oversampling}))
                    if _recall(truth[:, :k], tried.search(jury.users, [], k)) >= RECALL:
                        enough[k] = oversampling
                        break
            if len(enough) == len(JUDGED_AT):
                return cls(matrix, scan, Plan(tables, enough), jury)
        return cls(matrix, Scan(matrix), EXACT)

    def search(self, users: UserVectors, excluded: Sequence[Int64s], k: int, allowed: Bools | None = None) -> Found:
        """Return the k best products of each user; all products where there are fewer.

        Args:
            users: B user vectors, with what is added.
            excluded: the product indices that each user may not get `[B][X]`; an empty list excludes nothing.
            k: results for each.
            allowed: `[P]` the products that any user may get; None: all.
        """
        k, depth = min(k, len(self)), min(2 * k + 30, len(self))
        if allowed is not None:
            count = int(np.count_nonzero(allowed))
            if count <= EXACT_BELOW:
                return self._of_few(users, excluded, k, np.flatnonzero(allowed))
            depth = min(depth * len(self) // count, len(self))
        vectors, sparse = users.vectors.numpy(), _sparse_part(users, excluded, len(self))
        if allowed is not None:
            sparse.score[~allowed[sparse.product_index]] = -np.inf
        found, deep = self._among_nearest(vectors, sparse, k, depth, allowed)
        rest = np.flatnonzero(~deep)
        while len(rest) and depth < len(self):
            depth = min(4 * depth, len(self))
            deeper, deep = self._among_nearest(vectors[rest], sparse.of(rest), k, depth, allowed)
            found.product_index[rest], found.score[rest] = deeper.product_index, deeper.score
            rest = rest[~deep]
        return found

    def with_products(self, matrix: Float32s, other: Int64s) -> "ProductIndex":
        """Return an index of a changed catalogue, at the price of what has changed.

        Args:
            matrix: `[P', D]`, P' at least P.
            other: products that are new or have another vector, ascending.
        """
        fresh = np.union1d(self._fresh, other)
        if self._jury is None:
            return ProductIndex(matrix, Scan(matrix), EXACT)
        if len(fresh) > max(_LEAST_FRESH, MOST_FRESH * len(matrix)):
            return self._judged(matrix, self._jury, self.plan)
        return ProductIndex(matrix, self._scan, self.plan, self._jury, fresh)

    def nearest(self, vectors: Float32s, k: int, depth: int) -> tuple[Int64s, Float32s, Float32s]:
        """Return the products of largest inner product with each vector, and that inner product.

        Args:
            vectors: `[B, D]`.
            k: how many must be right.
            depth: how many are returned, best first.

        Returns:
            `[B, depth]` both, and `[B]`, what no other product's inner product is above.
        """
        scanned = len(self._scan)
        reached = min(depth, scanned)
        candidates = min(self.plan.candidates(k, reached), scanned)
        product_index, inner_product = self._scan.nearest(vectors, reached, candidates)
        bound = inner_product[:, -1]
        if not len(self._fresh):
            return product_index, inner_product, bound
        inner_product = np.where(self._stale[product_index], np.float32(-np.inf), inner_product)
        beside = vectors @ self.matrix[self._fresh].T
        best, score = best_of(
            np.hstack([product_index, np.broadcast_to(self._fresh, beside.shape)]),
            np.hstack([inner_product, beside]),
            depth,
        )
        return best, score, np.maximum(bound, score[:, -1])

    def _of_few(self, users: UserVectors, excluded: Sequence[Int64s], k: int, products: Int64s) -> Found:
        """Rank a few products, all of them exactly."""
        product_index = np.tile(products, (len(users), 1))
        inner_product = inner_products(self.matrix, users.vectors.numpy(), product_index)
        _, added = _sparse_part(users, excluded, len(self)).look_up(product_index)
        best, score = best_of(product_index, inner_product + added, k)
        lacking = ((0, 0), (0, k - score.shape[1]))
        return Found(np.pad(best, lacking), np.pad(score, lacking, constant_values=-np.inf))

    def _among_nearest(
        self, vectors: Float32s, sparse: "_SparsePart", k: int, depth: int, allowed: Bools | None
    ) -> tuple[Found, Bools]:
        """Rank the `depth` nearest of each user `[B, D]`, and the products of the sparse part.

        Also returns for which users `[B]` that is deep enough: where many of the nearest are left out, or sink for
        having been had, one further away could be among the best (the threshold algorithm of Fagin et al. 2003). So
        could one that scores the same as the last of the best, and stands before it.
        """
        product_index, inner_product, bound = self.nearest(vectors, k, depth)
        place, added = sparse.look_up(product_index)
        if allowed is not None:
            added[~allowed[product_index]] = -np.inf
        best, score = best_of(product_index, inner_product + added, k)
        # Of the sparse part's other products, those that could be lifted up to the k-th, or to its side and before it.
        highest = sparse.score + bound[sparse.row]
        enters = (highest >= score[sparse.row, -1]) & (highest > -np.inf)
        enters[place] = False
        if enters.any():
            row, index = sparse.row[enters], sparse.product_index[enters]
            column = np.arange(len(row)) - np.searchsorted(row, np.arange(len(vectors)))[row]
            more_index = np.full((len(vectors), int(column.max()) + 1), -1)
            more_index[row, column] = index
            more = inner_products(self.matrix, vectors, more_index)
            more[row, column] += sparse.score[enters]
            more_index[more_index < 0] = 0
            best, score = best_of(np.hstack([best, more_index]), np.hstack([score, more]), k)
        enough = len(self) >= EXACT_BELOW and depth >= k + _DEEPEST_FOR_TIES
        return Found(best, score), score[:, -1] >= bound if enough else score[:, -1] > bound


@dataclass(frozen=True)
class _SparsePart:
    """What is added to the scores of some (user, product) pairs, by ascending key.

    Shapes: `[A]` each; `key` is `row * product_count + product_index`. The last pair stands for all that are not here.
    """

    row: Int64s
    product_index: Int64s
    key: Int64s
    score: Float32s
    product_count: int

    @classmethod
    def ended(
        cls, row: Int64s, product_index: npt.NDArray[np.integer], key: Int64s, score: Float32s, product_count: int
    ) -> "_SparsePart":
        """Return some pairs, with the last one behind them."""
        return cls(
            np.append(row, 0),
            np.append(product_index, 0),
            np.append(key, np.iinfo(np.int64).max),
            np.append(score, np.float32(-np.inf)),
            product_count,
        )

    def of(self, rows: Int64s) -> "_SparsePart":
        """Return the pairs of some rows, ascending, which are numbered anew."""
        kept = np.flatnonzero(np.isin(self.row[:-1], rows))
        row, product_index = np.searchsorted(rows, self.row[kept]), self.product_index[kept]
        return self.ended(
            row, product_index, row * self.product_count + product_index, self.score[kept], self.product_count
        )

    def look_up(self, product_index: Int64s) -> tuple[Int64s, Float32s]:
        """Return where the pairs of `product_index [B, K]` stand, and what is added to their scores: `[B, K]` both."""
        wanted = np.arange(len(product_index))[:, None] * self.product_count + product_index
        place = np.searchsorted(self.key, wanted)
        found = self.key[place] == wanted
        return np.where(found, place, len(self.key) - 1), np.where(found, self.score[place], np.float32(0))


def _sparse_part(users: UserVectors, excluded: Sequence[Int64s], product_count: int) -> _SparsePart:
    """Return what is added to scores; to those of excluded products minus infinity."""
    row = np.repeat(np.arange(len(users)), np.diff(users.added_offsets))
    product_index, score = users.added_product_index, users.added_score
    if any(map(len, excluded)):
        lengths = [len(each) for each in excluded]
        row = np.concatenate([np.repeat(np.arange(len(excluded)), lengths), row])
        product_index = np.concatenate([*excluded, product_index])
        score = np.concatenate([np.full(sum(lengths), -np.inf, np.float32), score])
    key = row * product_count + product_index
    if any(map(len, excluded)):
        order = np.argsort(key, kind="stable")  # excluded before repeats
        row, product_index, key, score = row[order], product_index[order], key[order], score[order]
        score[1:][key[1:] == key[:-1]] = -np.inf
    return _SparsePart.ended(row, product_index, key, score, product_count)


def added(users: UserVectors, product_index: Int64s, product_count: int) -> tuple[Float32s, Float32s]:
    """Return what is added to the scores of `product_index [B, K]`, and how much of it is `history`: `[B, K]` both."""
    if not len(users.added_score):
        return np.zeros(product_index.shape, np.float32), np.zeros(product_index.shape, np.float32)
    sparse = _sparse_part(users, [], product_count)
    place, score = sparse.look_up(product_index)
    return score, np.append(users.added_history, np.float32(0))[place]


def searched_length(k: int) -> int:
    """Return the length that a list of k is searched with.

    What a coarse scan misses depends on it: lists that are searched together have it in common, and have it alone, too.
    """
    return next((each for each in _LENGTHS if each >= k), k)


def _true_best(matrix: Float32s, users: UserVectors, k: int) -> Int64s:
    """Return the k best products of each user `[B, k]`, best first, by their exact scores."""
    scores = users.vectors.numpy() @ matrix.T
    row = np.repeat(np.arange(len(users)), np.diff(users.added_offsets))
    np.add.at(scores, (row, users.added_product_index), users.added_score)
    return torch.from_numpy(scores).topk(k, dim=1).indices.numpy()


def _recall(truth: Int64s, found: Found) -> float:
    hits = (truth[:, :, None] == found.product_index[:, None, :]).any(2)
    return float(hits.mean()) if hits.size else 1.0
