"""Personal frequency: what a user has had most often, recent interactions counting more, then what is popular.

A strong baseline where things are bought again (Ji et al., "A Re-visit of the Popularity Baseline", 2020; Hu et al.,
"Modeling Personalized Item Frequency Information for Next-basket Recommendation", 2020).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.popularity import popularity
from model.baselines.recency import time_weights
from model.baselines.space import Axis, Real


class FrequencyConfig(BaseModel):
    """How a user's interactions are counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    half_life_days: float | None = Field(
        None, gt=0, le=36_500, description="age at which an interaction counts half; none: never"
    )


GRID = (
    FrequencyConfig(),
    FrequencyConfig(half_life_days=365),
    FrequencyConfig(half_life_days=182),
    FrequencyConfig(half_life_days=91),
    FrequencyConfig(half_life_days=56),
    FrequencyConfig(half_life_days=28),
)
SPACE: Mapping[str, Axis] = {"half_life_days": Real(7, 730, log=True)}

_FALLBACK = 1e-3
"""Weight of the most popular product, for those that a user never had: below one recent purchase of the user's own."""


class Frequency:
    """Counts a history when asked; only the popularity that fills the list `[P]` is fitted."""

    name = "frequency"

    def __init__(self, fallback: npt.NDArray[np.float32], half_life_days: float | None) -> None:
        self.fallback = fallback
        self._half_life_days = half_life_days

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return each user's weighted counts, plus a little popularity `[B, P]`."""
        weight = time_weights(histories, now_ms, self._half_life_days)
        counts = sparse.coo_matrix(
            (weight, (histories.users_of_rows(), histories.product_index)), (len(histories), len(self.fallback))
        )
        scores: npt.NDArray[np.float32] = counts.toarray() + self.fallback
        return scores


def fit(data: FitData, config: FrequencyConfig) -> Frequency:
    """Take the overall popularity for the products that a user never had."""
    weight = popularity(data.known, data.product_count, None)
    return Frequency(weight / max(float(weight.max(initial=0)), 1) * _FALLBACK, config.half_life_days)
