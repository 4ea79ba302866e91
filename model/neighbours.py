"""Neighbours: products that the same users had, or that facts link, as a sparse component of the score.

    neighbours(u, p) = Σ_{j in history} w_j S_jp,        w_j = δ^(later interactions) · 2^(−age / half-life)

S is a closed-form item-item model that a network does not replace: it keeps what is particular to a pair of products.
`cosine` is ItemKNN (Sarwar et al. 2001); `ease` is EASE^R (Steck 2019, arXiv:1905.03375), in which a fact between two
products counts like a few users who had both. Only the strongest positive weights of every product are kept: on Beauty
200 of 12,101 rank a little better than all of them, and what is kept adds to scores, so that an exact top-k has only to
look at them and at the best of the rest.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.snapshot import Histories, Snapshot
from model.baselines.ease import item_weights
from model.baselines.taken import HistoryConfig, incidence, taken
from model.config import NeighbourConfig
from model.errors import ModelError

_BLOCK = 4096
_DENSE = 0.1
_WIDE = 4
_STEP = 8
_MOST_PRODUCTS = 30_000
"""EASE inverts a dense matrix: 3.6 GB at this size."""


@dataclass(frozen=True)
class Neighbours:
    """S as compressed rows: how much each product speaks for others.

    Args:
        weights: `[P, P]` float32, positive.
        config: how a history is weighted.
    """

    weights: sparse.csr_matrix
    config: NeighbourConfig

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> sparse.csr_matrix:
        """Return what neighbours add to each user's scores `[B, P]`, columns ascending within a user."""
        weighting = HistoryConfig(half_life_days=self.config.half_life_days, position_decay=self.config.position_decay)
        added = (taken(histories, now_ms, weighting, self.weights.shape[0]) @ self.weights).tocsr()
        added.sort_indices()
        return added

    def with_more(self, products: int) -> "Neighbours":
        """Return the same with further products, which have no neighbours."""
        data, indices, indptr = self.weights.data, self.weights.indices, self.weights.indptr
        offsets = np.concatenate([indptr, np.full(products, indptr[-1], indptr.dtype)])
        count = self.weights.shape[0] + products
        return Neighbours(sparse.csr_matrix((data, indices, offsets), (count, count)), self.config)

    def moved(self, place: npt.NDArray[np.int64], product_count: int) -> "Neighbours":
        """Return the same over another catalogue.

        Args:
            place: `[P]` where each product stands there, -1 where it is no more.
            product_count: of the other catalogue; a product that is new there has no neighbours.
        """
        entries = self.weights.tocoo()
        row, column = place[entries.row], place[entries.col]
        stays = (row >= 0) & (column >= 0)
        shape = (product_count, product_count)
        return Neighbours(sparse.csr_matrix((entries.data[stays], (row[stays], column[stays])), shape), self.config)


def fit_neighbours(
    snapshot: Snapshot, histories: Histories, config: NeighbourConfig, exclude_relations: tuple[str, ...]
) -> Neighbours | None:
    """Fit S on the histories that a model is trained on; None where the settings want none.

    What is `learned` reads the cosines (`model.learned_neighbours`).

    Args:
        snapshot: products and facts.
        histories: nothing later than what training sees.
        config: which kind, and how much is kept.
        exclude_relations: facts that the model must not see.

    Raises:
        ModelError: `ease` with more products than its dense matrix allows.
    """
    if config.kind == "none":
        return None
    product_count = len(snapshot.products)
    had = incidence(histories, product_count).astype(np.float32)
    if config.facts:
        had = sparse.vstack([had, _linked(snapshot, exclude_relations) * np.float32(config.facts**0.5)]).tocsr()
    if config.kind != "ease":
        return Neighbours(_cosines(had, config.kept), config)
    if product_count > _MOST_PRODUCTS:
        raise ModelError(
            f'model.neighbours.kind is "ease", which inverts a dense matrix of {product_count:,} products '
            f"({4e-9 * product_count**2:.1f} GB); the most are {_MOST_PRODUCTS:,}",
            'Set it to "cosine" or "none".',
        )
    dense = item_weights(had, config.penalty)
    rows = [_strongest(dense[at : at + _BLOCK], config.kept) for at in range(0, product_count, _BLOCK)]
    return Neighbours(sparse.vstack(rows).tocsr(), config)


def _linked(snapshot: Snapshot, exclude_relations: tuple[str, ...]) -> sparse.csr_matrix:
    """Return a row `[F, P]` with both ends of every fact between two products."""
    product_count = len(snapshot.products)
    ends = [np.empty((0, 2), np.int64)]
    for name, edges in sorted(snapshot.facts.items()):
        if name in exclude_relations:
            continue
        both = (edges.head < product_count) & (edges.tail < product_count) & (edges.head != edges.tail)
        ends.append(np.stack([edges.head[both], edges.tail[both]], axis=1).astype(np.int64))
    pairs = np.concatenate(ends)
    offsets = np.arange(0, 2 * len(pairs) + 1, 2)
    return sparse.csr_matrix((np.ones(2 * len(pairs), np.float32), pairs.ravel(), offsets), (len(pairs), product_count))


def _cosines(had: sparse.csr_matrix, kept: int) -> sparse.csr_matrix:
    users = np.maximum(np.asarray(had.multiply(had).sum(axis=0)).ravel(), 1e-9)
    unit = (had @ sparse.diags_array((1 / np.sqrt(users)).astype(np.float32))).tocsr()
    by_product = unit.T.tocsr()
    rows = []
    for at in range(0, had.shape[1], _BLOCK):
        block = (by_product[at : at + _BLOCK] @ unit).tocsr()
        block.setdiag(0, k=at)
        rows.append(strongest(block, kept))
    return sparse.vstack(rows).tocsr()


def _strongest(dense: npt.NDArray[np.float32], kept: int) -> sparse.csr_matrix:
    """Keep the largest positive weights of each row."""
    kept = min(kept, dense.shape[1])
    columns = np.sort(np.argpartition(-dense, kept - 1, axis=1)[:, :kept], axis=1)
    values = np.take_along_axis(dense, columns, axis=1)
    positive = values > 0
    offsets = np.concatenate([[0], np.cumsum(positive.sum(axis=1))])
    return sparse.csr_matrix((values[positive], columns[positive], offsets), dense.shape)


def strongest(rows: sparse.csr_matrix, kept: int) -> sparse.csr_matrix:
    """Keep the largest positive weights of each row of `rows`; of equal ones those of the first columns."""
    if rows.nnz > _DENSE * rows.shape[0] * rows.shape[1] and rows.shape[1] > _WIDE * kept:
        rows = _promising(rows.toarray(), kept)
    rows.sort_indices()
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -rows.data, row))
    rank = np.arange(len(order)) - rows.indptr[row[order]]
    chosen = np.sort(order[(rank < kept) & (rows.data[order] > 0)])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[chosen], minlength=rows.shape[0]))])
    return sparse.csr_matrix((rows.data[chosen], rows.indices[chosen], offsets), rows.shape)


def _promising(dense: npt.NDArray[np.float32], kept: int) -> sparse.csr_matrix:
    """Return the largest weights of each row, at least `kept` and few more: sorting all of many takes long.

    A share of the columns tells about where the `kept`-th stands. Where it told wrong, the whole row is returned.
    """
    some = dense[:, ::_STEP]
    place = min(2 * kept // _STEP + _STEP, some.shape[1])
    bound = np.partition(some, -place, axis=1)[:, -place, None]
    chosen = dense >= bound
    chosen[chosen.sum(axis=1) < kept] = True
    row, column = np.nonzero(chosen)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(dense)))])
    return sparse.csr_matrix((dense[chosen], column, offsets), dense.shape)
