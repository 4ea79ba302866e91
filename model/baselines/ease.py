"""EASE^R: the best linear item-item model, in closed form (Steck 2019, arXiv:1905.03375).

    min_B ||X − X B||² + λ ||B||²  with diag B = 0:     P = (X^T X + λ I)^−1,   B_ij = −P_ij / P_jj,  B_jj = 0
    score(u, j) = Σ_{i in history} w_i B_ij  (+ c · facts that link i and j)

w = 1 is the published model. `ease_recency` lets the weight fall with every later interaction, and `ease_facts` adds
facts between products. P is dense, so products are limited; those with too few users can be left out of it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.likeness import Likeness, LikenessRanker, Table, linked_products
from model.baselines.space import Axis, Choice, Real
from model.baselines.taken import HistoryConfig, incidence
from model.errors import ModelError
from model.ranker import Ranker

Float32s = npt.NDArray[np.float32]

_BLOCK = 2048


class EaseConfig(HistoryConfig):
    """The penalty, how a history is weighted, and what memory may be used."""

    penalty: float = Field(100, gt=0, le=1e6, description="λ, the L2 penalty")
    facts: float = Field(0, ge=0, le=100, description="weight of facts between products")
    min_users: int = Field(1, ge=1, description="products with fewer users are left out of the matrix")
    max_products: int = Field(
        30_000, ge=1, le=200_000, description="largest matrix: more products are refused; memory is 4 bytes · products²"
    )


GRID = tuple(EaseConfig(penalty=penalty) for penalty in (100, 30, 200, 400, 800, 1600))
SPACE: Mapping[str, Axis] = {"penalty": Real(10, 5000, log=True)}

RECENCY_GRID = tuple(
    EaseConfig(penalty=penalty, position_decay=decay) for penalty in (100, 400) for decay in (0.7, 0.5, 0.85)
)
RECENCY_SPACE: Mapping[str, Axis] = {
    **SPACE,
    "half_life_days": Choice((None, 28.0, 91.0, 365.0)),
    "position_decay": Real(0.3, 1),
}

FACTS_GRID = tuple(
    EaseConfig(penalty=penalty, position_decay=0.7, facts=facts)
    for penalty in (100, 400)
    for facts in (0.01, 0.003, 0.02)
)
FACTS_SPACE: Mapping[str, Axis] = {**RECENCY_SPACE, "facts": Real(0.001, 0.1, log=True)}


def fit(data: FitData, config: EaseConfig) -> Ranker:
    """Solve for B, on the histories as they are."""
    return _fit("ease", data, config)


def fit_recency(data: FitData, config: EaseConfig) -> Ranker:
    """Solve for B; a history's later interactions count more."""
    return _fit("ease_recency", data, config)


def fit_facts(data: FitData, config: EaseConfig) -> Ranker:
    """Solve for B; a history's later interactions count more, and facts between products count too."""
    return _fit("ease_facts", data, config)


def _fit(name: str, data: FitData, config: EaseConfig) -> Ranker:
    weights = data.memo("ease", (config.penalty, config.min_users), lambda: _checked_weights(data, config))
    parts: list[tuple[float, Likeness]] = [(1, weights)]
    if config.facts:
        parts.append((config.facts, Table(linked_products(data.facts, data.product_count))))
    return popular_when_cold(LikenessRanker(name, parts, config, data.product_count), data)


def _checked_weights(data: FitData, config: EaseConfig) -> Likeness:
    had = incidence(data.known, data.product_count)
    active = np.flatnonzero(np.asarray(had.sum(axis=0)).ravel() >= config.min_users)
    if len(active) > config.max_products:
        raise ModelError(
            f"EASE would invert a dense matrix of {len(active):,} x {len(active):,} products "
            f"({4e-9 * len(active) ** 2:.1f} GB); ease.max_products is {config.max_products:,}",
            "Raise min_users, so that products with few users are left out, or max_products if there is memory.",
        )
    return _OfActive(active, item_weights(had[:, active], config.penalty), data.product_count)


class _OfActive:
    """A dense likeness of some of the products; the others are like nothing."""

    def __init__(self, active: npt.NDArray[np.int64], table: Float32s, product_count: int) -> None:
        self._active = active
        self._table = table
        self._product_count = product_count

    def spread(self, weights: sparse.csr_matrix) -> Float32s:
        scores = np.zeros((weights.shape[0], self._product_count), np.float32)
        scores[:, self._active] = weights[:, self._active] @ self._table
        return scores


def item_weights(had: sparse.csr_matrix, penalty: float) -> Float32s:
    """Return B `[P, P]` of who had what `[U, P]`: symmetric positive definite, so by Cholesky, in place."""
    product_count = had.shape[1]
    gram = np.empty((product_count, product_count), np.float32, order="F")
    users_of = had.T.tocsr()
    for start in range(
        0, product_count, _BLOCK
    ):  # where users have much, X^T X is full: sparse, it would be far larger
        gram[:, start : start + _BLOCK] = users_of @ had[:, start : start + _BLOCK].toarray()
    gram[np.diag_indices_from(gram)] += penalty
    factor, failed = lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ModelError(f"EASE's matrix can't be inverted with penalty {penalty}", "Raise ease.penalty.")
    _mirror_lower(inverse)
    inverse /= -inverse.diagonal().copy()[None, :]
    np.fill_diagonal(inverse, 0)
    weights: Float32s = inverse
    return weights


def _mirror_lower(matrix: Float32s, block: int = _BLOCK) -> None:
    """Copy the lower triangle onto the upper one, block by block, so that no second matrix is made."""
    for start in range(0, len(matrix), block):
        stop = min(start + block, len(matrix))
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        corner = matrix[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
