"""ItemKNN: products had by the same users as those in the history (Sarwar et al. 2001).

    s(i, j) = |users of i and j| / sqrt(|users of i| · |users of j|),     score(u, j) = Σ_{i in history} w_i · s(i, j)

with w_i falling with the age of the interaction. No neighbour is cut off: with X the user × product matrix whose
columns have length one, s = X^T X, so the product × product matrix is never made.
"""

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.likeness import Factored, LikenessRanker
from model.baselines.space import Axis, Choice, Real
from model.baselines.taken import HistoryConfig, incidence
from model.ranker import Ranker


class ItemKnnConfig(HistoryConfig):
    """How a history is weighted."""


GRID = (
    ItemKnnConfig(),
    ItemKnnConfig(position_decay=0.85),
    ItemKnnConfig(position_decay=0.7),
    ItemKnnConfig(position_decay=0.5),
    ItemKnnConfig(half_life_days=91),
    ItemKnnConfig(half_life_days=39),
)
SPACE: Mapping[str, Axis] = {
    "half_life_days": Choice((None, 28.0, 91.0, 365.0)),
    "position_decay": Real(0.3, 1),
}


def fit(data: FitData, config: ItemKnnConfig) -> Ranker:
    """Note who had what."""
    bought_together = co_occurrence(data.known, data.product_count)
    return popular_when_cold(LikenessRanker("itemknn", [(1, bought_together)], config, data.product_count), data)


def co_occurrence(known: Histories, product_count: int) -> Factored:
    """Return the cosine of the products' sets of users."""
    had = incidence(known, product_count)
    users_of_product = np.maximum(np.asarray(had.sum(axis=0)).ravel(), 1)
    unit = had @ sparse.diags_array((1 / np.sqrt(users_of_product)).astype(np.float32))
    return Factored(unit.T.tocsr())
