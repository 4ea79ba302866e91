"""Popularity: the same list for everybody, recent interactions counting more."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.recency import time_weights
from model.baselines.space import Axis, Real


class PopularityConfig(BaseModel):
    """How popularity is counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    half_life_days: float | None = Field(None, gt=0, description="age at which an interaction counts half; none: never")


GRID = (
    PopularityConfig(),
    PopularityConfig(half_life_days=182),
    PopularityConfig(half_life_days=56),
    PopularityConfig(half_life_days=28),
    PopularityConfig(half_life_days=14),
)
SPACE: Mapping[str, Axis] = {"half_life_days": Real(7, 730, log=True)}


class Popularity:
    """Interactions of each product `[P]`, weighted by their age at the last known interaction."""

    name = "popularity"

    def __init__(self, weight: npt.NDArray[np.float32]) -> None:
        self.weight = weight

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the same row for every user `[B, P]`."""
        return np.tile(self.weight, (len(histories), 1))


def fit(data: FitData, config: PopularityConfig) -> Popularity:
    """Count every product's interactions."""
    return Popularity(popularity(data.known, data.product_count, config.half_life_days))


def popularity(known: Histories, product_count: int, half_life_days: float | None) -> npt.NDArray[np.float32]:
    """Return every product's interactions `[P]`, weighted by their age at the last one known."""
    # A common factor does not change the order, so one moment serves for all questions.
    latest = np.full(len(known), known.at_ms.max(initial=0), np.int64)
    weight = np.bincount(known.product_index, time_weights(known, latest, half_life_days), product_count)
    return weight.astype(np.float32)
