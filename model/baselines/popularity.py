"""Popularity: the same list for everybody, recent interactions counting more."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.recency import time_weights
from model.baselines.space import Axis, Choice, Real
from model.case import DAY_MS


class PopularityConfig(BaseModel):
    """How popularity is counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    half_life_days: float | None = Field(
        None, gt=0, le=36_500, description="age at which an interaction counts half; none: never"
    )
    window_days: float | None = Field(None, gt=0, le=36_500, description="only the last so many days count; none: all")


GRID = (
    PopularityConfig(),
    PopularityConfig(half_life_days=182),
    PopularityConfig(half_life_days=56),
    PopularityConfig(half_life_days=28),
    PopularityConfig(half_life_days=14),
    PopularityConfig(window_days=30),
)
SPACE: Mapping[str, Axis] = {
    "half_life_days": Real(3, 730, log=True),
    "window_days": Choice((None, 730.0, 182.0, 91.0, 30.0)),
}


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
    return Popularity(popularity(data.known, data.product_count, config.half_life_days, config.window_days))


def popularity(
    known: Histories, product_count: int, half_life_days: float | None, window_days: float | None = None
) -> npt.NDArray[np.float32]:
    """Return every product's interactions `[P]`, weighted by their age at the last one known."""
    # A common factor does not change the order, so one moment serves for all questions.
    latest = np.full(len(known), known.at_ms.max(initial=0), np.int64)
    weight = time_weights(known, latest, half_life_days)
    if window_days is not None:
        weight = weight * (known.at_ms > latest.max(initial=0) - window_days * DAY_MS)
    return np.bincount(known.product_index, weight, product_count).astype(np.float32)
