"""Baselines: the plain rankers that the network has to beat, each fitted on what a case knows.

Every baseline is a function `fit(data, config) -> Ranker` with a typed configuration, a grid of configurations from
which the validation case picks, and the space around it: a peer gets its tuning too (`model.baselines.contract`).
"""

from collections.abc import Mapping

from model.baselines import frequency, itemknn, popularity
from model.baselines.contract import Baseline, FitData, fit_data

__all__ = ["BASELINES", "Baseline", "FitData", "fit_data"]

BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(popularity.fit, popularity.GRID, popularity.SPACE),
    "frequency": Baseline(frequency.fit, frequency.GRID, frequency.SPACE),
    "itemknn": Baseline(itemknn.fit, itemknn.GRID, itemknn.SPACE),
}
