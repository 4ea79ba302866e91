"""Baselines: the plain rankers that the network has to beat, each fitted on what a case knows.

Every baseline is a function `fit(known, product_count, config) -> Ranker` with a typed configuration, and a grid of
configurations from which the validation case picks: a peer gets its tuning too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kg.snapshot import Histories
from model.baselines import frequency, itemknn, popularity
from model.ranker import Ranker


@dataclass(frozen=True)
class Baseline:
    """How to fit a baseline, and the configurations to choose from; the first is the default."""

    fit: Callable[[Histories, int, Any], Ranker]
    grid: tuple[Any, ...]


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(popularity.fit, popularity.GRID),
    "frequency": Baseline(frequency.fit, frequency.GRID),
    "itemknn": Baseline(itemknn.fit, itemknn.GRID),
}
