"""What a user has taken, as a sparse row of weights over products: the input of every closed-form ranker."""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.recency import position_weights, time_weights


class HistoryConfig(BaseModel):
    """How a history is weighted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    half_life_days: float | None = Field(
        None, gt=0, le=36_500, description="age at which an interaction counts half; none: never"
    )
    position_decay: float = Field(1.0, gt=0, le=1, description="factor for each later interaction of the user")


def taken(
    histories: Histories, now_ms: npt.NDArray[np.int64], config: HistoryConfig, product_count: int
) -> sparse.csr_matrix:
    """Return each user's weight of each product `[B, P]`; a product had twice has the sum of both weights."""
    weight = time_weights(histories, now_ms, config.half_life_days)
    weight *= position_weights(histories, config.position_decay)
    # Not a view: sorting indices, which some products of matrices do in place, would mix up the histories.
    indices, offsets = histories.product_index.copy(), histories.offsets.copy()
    return sparse.csr_matrix((weight, indices, offsets), (len(histories), product_count))


def incidence(known: Histories, product_count: int) -> sparse.csr_matrix:
    """Return which user had which product `[U, P]`: 1 or nothing, however often."""
    had = sparse.csr_matrix(
        (np.ones(len(known.product_index), np.float32), known.product_index.copy(), known.offsets.copy()),
        (len(known), product_count),
    )
    had.sum_duplicates()
    had.data[:] = 1
    return had
