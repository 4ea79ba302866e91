"""Likenesses of products, and the ranker that sums them over a history.

    score(u, j) = Σ_{i in history} w_i Σ_parts c_part · s_part(i, j)

A likeness is never a dense product × product table unless it has to be one: s = F F^T is kept as its factor F, so that
scores are (w F) F^T.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.snapshot import Edges, Histories
from model.baselines.taken import HistoryConfig, taken

Float32s = npt.NDArray[np.float32]

_BLOCK_BYTES = 64 * 2**20


class Likeness(Protocol):
    """How alike any two of P products are."""

    def spread(self, weights: sparse.csr_matrix) -> Float32s:
        """Return Σ_i w_i s(i, ·) of each row of `weights [B, P]`, as `[B, P]`."""


class Factored:
    """s(i, j) = f_i · f_j, of a factor `[P, F]`, sparse or dense."""

    def __init__(self, factor: sparse.csr_matrix | Float32s) -> None:
        self._factor = factor

    def spread(self, weights: sparse.csr_matrix) -> Float32s:
        """Return the sums `[B, P]`."""
        scores = np.empty((weights.shape[0], self._factor.shape[0]), np.float32)
        for rows in blocks(len(scores), self._factor.shape[1]):
            summed = weights[rows] @ self._factor  # [B, F]
            # Many factors are shared by most products, so that a sparse result would be full: better a dense one.
            dense = summed.toarray() if sparse.issparse(summed) else summed
            scores[rows] = (self._factor @ dense.T).T
        return scores


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield parts of some rows, such that a dense array of `width` numbers for each row of a part stays small."""
    step = max(1, _BLOCK_BYTES // (4 * max(1, width)))
    for start in range(0, rows, step):
        yield slice(start, start + step)


class Table:
    """s(i, j) as it stands in a table `[P, P]`, sparse or dense."""

    def __init__(self, table: sparse.csr_matrix | Float32s) -> None:
        self.table = table

    def spread(self, weights: sparse.csr_matrix) -> Float32s:
        """Return the sums `[B, P]`."""
        summed = weights @ self.table
        scores: Float32s = summed.toarray() if sparse.issparse(summed) else summed
        return scores


class LikenessRanker:
    """Sums likenesses over a history.

    Args:
        name: what reports call it.
        parts: the weight of each likeness; a weight of 0 costs nothing.
        config: how a history is weighted.
        product_count: P.
    """

    def __init__(
        self, name: str, parts: Sequence[tuple[float, Likeness]], config: HistoryConfig, product_count: int
    ) -> None:
        self.name = name
        self._parts = [(weight, part) for weight, part in parts if weight]
        self._config = config
        self._product_count = product_count

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Return the weighted sums `[B, P]`."""
        weights = taken(histories, now_ms, self._config, self._product_count)
        total = np.zeros((len(histories), self._product_count), np.float32)
        for weight, part in self._parts:
            total += np.float32(weight) * part.spread(weights)
        return total


def linked_products(facts: Mapping[str, Edges], product_count: int) -> sparse.csr_matrix:
    """Return in how many facts two products stand together `[P, P]`, both ways; a fact in both directions counts 2."""
    pairs = [edges for edges in facts.values() if len(edges)]
    head = np.concatenate([np.empty(0, np.int32), *(edges.head for edges in pairs)])
    tail = np.concatenate([np.empty(0, np.int32), *(edges.tail for edges in pairs)])
    between = (head < product_count) & (tail < product_count) & (head != tail)
    head, tail = head[between], tail[between]
    count = sparse.csr_matrix((np.ones(len(head), np.float32), (head, tail)), (product_count, product_count))
    return (count + count.T).tocsr()


def shared_nodes(facts: Mapping[str, Edges], product_count: int) -> Factored:
    """Return what two products share: Σ idf² over the brands, categories, … that facts tie both to directly.

    idf = log(P / products of the node) / log P: 1 for a node with one product, 0 for one with all (Spärck Jones 1972).
    """
    pairs = [edges for edges in facts.values() if len(edges)]
    head = np.concatenate([np.empty(0, np.int32), *(edges.head for edges in pairs)])
    tail = np.concatenate([np.empty(0, np.int32), *(edges.tail for edges in pairs)])
    describing = (head < product_count) & (tail >= product_count)
    head, tail = head[describing], tail[describing] - product_count
    size = (product_count, int(tail.max(initial=-1)) + 1)
    tied = sparse.csr_matrix((np.ones(len(head), np.float32), (head, tail)), size)
    tied.sum_duplicates()
    tied.data[:] = 1
    products_of = np.maximum(np.asarray(tied.sum(axis=0)).ravel(), 1)
    idf = np.log(product_count / products_of) / np.log(max(product_count, 2))
    return Factored((tied @ sparse.diags_array(idf.astype(np.float32))).tocsr())
