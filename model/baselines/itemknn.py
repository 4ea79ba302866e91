"""ItemKNN: products had by the same users as those in the history (Sarwar et al. 2001).

    s(i, j) = |users of i and j| / sqrt(|users of i| · |users of j|),     score(u, j) = Σ_{i in history} w_i · s(i, j)

with w_i falling with the age of the interaction. No neighbour is cut off: with X the user × product matrix whose
columns have length one, scores are (w X^T) X, so the product × product matrix is never made.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.recency import position_weights, time_weights
from model.baselines.space import Axis, Choice, Real


class ItemKnnConfig(BaseModel):
    """How a history is weighted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    half_life_days: float | None = Field(None, gt=0, description="age at which an interaction counts half; none: never")
    position_decay: float = Field(1.0, gt=0, le=1, description="factor for each later interaction of the user")


GRID = (
    ItemKnnConfig(),
    ItemKnnConfig(position_decay=0.7),
    ItemKnnConfig(position_decay=0.5),
    ItemKnnConfig(half_life_days=91),
    ItemKnnConfig(half_life_days=39),
)
SPACE: Mapping[str, Axis] = {"half_life_days": Choice((None, 28, 91, 365)), "position_decay": Real(0.3, 1)}


class ItemKnn:
    """Holds who had what: `unit [U, P]`, sparse, columns of length one."""

    name = "itemknn"

    def __init__(self, unit: sparse.csr_matrix, config: ItemKnnConfig) -> None:
        self.unit = unit
        self._transposed = unit.T.tocsr()
        self._config = config

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the weighted similarity of each product to each history `[B, P]`."""
        weight = time_weights(histories, now_ms, self._config.half_life_days)
        weight = weight * position_weights(histories, self._config.position_decay)
        shape = (len(histories), self.unit.shape[1])
        taken = sparse.csr_matrix((weight, histories.product_index, histories.offsets), shape)
        scores: npt.NDArray[np.float32] = (taken @ self._transposed @ self.unit).toarray()
        return scores


def fit(data: FitData, config: ItemKnnConfig) -> ItemKnn:
    """Note who had what, each product's column scaled to length one."""
    known = data.known
    shape = (len(known), data.product_count)
    # Summing duplicates sorts the indices in place: they must be a copy, or the histories lose their order.
    indices = known.product_index.copy()
    had = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, known.offsets.copy()), shape)
    had.sum_duplicates()
    had.data[:] = 1
    users_of_product = np.maximum(np.asarray(had.sum(axis=0)).ravel(), 1)
    return ItemKnn((had @ sparse.diags_array((1 / np.sqrt(users_of_product)).astype(np.float32))).tocsr(), config)
