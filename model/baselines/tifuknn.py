"""TIFU-KNN: what a user buys again and again, and what the users nearest to that one buy.

    v_g = 1/m Σ_{baskets i of group g} r_b^(m − i) · basket_i,     t_u = 1/G Σ_g r_g^(G − g) · v_g
    score = α t_u + (1 − α) · mean of t over the k users nearest to t_u (Euclidean)

A basket is what a user had at one moment; a group is m baskets in a row, counted back from the last one, so that only
the oldest group may be shorter. The neighbours of a user who was fitted are others: distance 0 to itself says nothing.
Hu et al. 2020, arXiv:2006.00556.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.likeness import blocks
from model.baselines.space import Axis, Real, Whole
from model.ranker import Ranker

Float32s = npt.NDArray[np.float32]


class TifuKnnConfig(BaseModel):
    """The parameters of the paper, under its names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group_size: int = Field(7, ge=1, le=10_000, description="m, baskets in a group")
    within_decay: float = Field(0.9, gt=0, le=1, description="r_b, factor for each later basket of the group")
    group_decay: float = Field(0.7, gt=0, le=1, description="r_g, factor for each later group")
    neighbours: int = Field(300, ge=1, le=100_000, description="k, nearest users")
    own: float = Field(0.7, ge=0, le=1, description="α, share of the user's own vector")


GRID = (
    TifuKnnConfig(),
    TifuKnnConfig(own=0.9),
    TifuKnnConfig(group_size=14, own=0.9),
    TifuKnnConfig(group_size=14, group_decay=0.9, own=0.9),
    TifuKnnConfig(group_size=7, within_decay=1, group_decay=0.9, own=0.9),
    TifuKnnConfig(group_size=3, group_decay=0.9, own=0.8, neighbours=100),
)
SPACE: Mapping[str, Axis] = {
    "group_size": Whole(2, 30, log=True),
    "within_decay": Real(0.5, 1),
    "group_decay": Real(0.3, 1),
    "neighbours": Whole(20, 900, log=True),
    "own": Real(0.1, 1),
}


class TifuKnn:
    """The vectors `[U, P]`, sparse, of the users that may be neighbours."""

    name = "tifuknn"

    def __init__(self, vectors: sparse.csr_matrix, config: TifuKnnConfig) -> None:
        self._vectors = vectors[np.diff(vectors.indptr) > 0]
        self._lengths = np.asarray(self._vectors.multiply(self._vectors).sum(axis=1)).ravel()  # squared
        self._config = config

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Return the mixture of own and neighbours' purchases `[B, P]`."""
        own = user_vectors(histories, self._vectors.shape[1], self._config)
        scores = np.empty(own.shape, np.float32)
        for rows in blocks(len(histories), max(self._vectors.shape)):
            part = own[rows]
            near = self._neighbours(part) @ self._vectors
            mixed = self._config.own * part + (1 - self._config.own) * near
            scores[rows] = mixed.toarray()
        return scores

    def _neighbours(self, own: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return a matrix `[B, U]` that takes the mean over each one's nearest users."""
        lengths = np.asarray(own.multiply(own).sum(axis=1))
        distance = lengths - 2 * (own @ self._vectors.T).toarray() + self._lengths[None, :]  # squared
        distance[distance < 1e-4 * np.maximum(lengths, 1e-12)] = np.inf  # itself
        k = min(self._config.neighbours, distance.shape[1])
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        share = np.isfinite(np.take_along_axis(distance, nearest, axis=1)).astype(np.float32)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1)
        offsets = np.arange(len(nearest) + 1) * k
        return sparse.csr_matrix((share.ravel(), nearest.ravel(), offsets), distance.shape)


def fit(data: FitData, config: TifuKnnConfig) -> Ranker:
    """Make everybody's vector."""
    return popular_when_cold(TifuKnn(user_vectors(data.known, data.product_count, config), config), data)


def user_vectors(histories: Histories, product_count: int, config: TifuKnnConfig) -> sparse.csr_matrix:
    """Return the personalised item frequencies t `[B, P]` of histories."""
    users = histories.users_of_rows()
    starts = np.ones(len(users), np.bool_)  # of a basket
    starts[1:] = (np.diff(users) != 0) | (np.diff(histories.at_ms) != 0)
    basket = np.cumsum(starts) - 1  # [N] of all users, in order
    baskets_before = np.concatenate([[0], np.cumsum(starts)])[histories.offsets]
    back = baskets_before[1:][users] - 1 - basket  # [N] baskets after this one
    count = np.diff(baskets_before)[users]
    group = back // config.group_size  # [N] groups after this one
    groups = -(-count // config.group_size)
    size = np.minimum(config.group_size, count - group * config.group_size)
    weight = np.power(config.within_decay, back % config.group_size) / size
    weight *= np.power(config.group_decay, group) / groups
    # A basket holds a product or not: once is enough.
    first = np.unique(basket * product_count + histories.product_index, return_index=True)[1]
    vectors = sparse.coo_matrix(
        (weight[first].astype(np.float32), (users[first], histories.product_index[first])),
        (len(histories), product_count),
    )
    return vectors.tocsr()
