"""Baselines: the plain rankers that the network has to beat, each fitted on what a case knows.

Every baseline is a function `fit(data, config) -> Ranker` with a typed configuration, a grid of configurations from
which the validation case picks, and the space around it: a peer gets its tuning too (`model.baselines.contract`).
"""

from collections.abc import Mapping

from model.baselines import (
    bpr,
    ease,
    frequency,
    graph_only,
    ials,
    itemknn,
    itemknn_facts,
    lightgcn,
    popularity,
    sasrec,
    text_only,
    tifuknn,
)
from model.baselines.contract import Baseline, FitData, fit_data

__all__ = ["BASELINES", "Baseline", "FitData", "fit_data"]

BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(popularity.fit, popularity.GRID, popularity.SPACE),
    "frequency": Baseline(frequency.fit, frequency.GRID, frequency.SPACE),
    "tifuknn": Baseline(tifuknn.fit, tifuknn.GRID, tifuknn.SPACE),
    "itemknn": Baseline(itemknn.fit, itemknn.GRID, itemknn.SPACE),
    "itemknn_facts": Baseline(itemknn_facts.fit, itemknn_facts.GRID, itemknn_facts.SPACE),
    "ease": Baseline(ease.fit, ease.GRID, ease.SPACE),
    "ease_recency": Baseline(ease.fit_recency, ease.RECENCY_GRID, ease.RECENCY_SPACE),
    "ease_facts": Baseline(ease.fit_facts, ease.FACTS_GRID, ease.FACTS_SPACE),
    "ials": Baseline(ials.fit, ials.GRID, ials.SPACE, needs=("implicit",)),
    "bpr": Baseline(bpr.fit, bpr.GRID, bpr.SPACE, needs=("implicit",)),
    "lightgcn": Baseline(lightgcn.fit, lightgcn.GRID, lightgcn.SPACE, by_epochs=True),
    "sasrec": Baseline(sasrec.fit, sasrec.GRID, sasrec.SPACE, by_epochs=True),
    "text_only": Baseline(text_only.fit, text_only.GRID, text_only.SPACE),
    "graph_only": Baseline(graph_only.fit, graph_only.GRID, graph_only.SPACE),
}
