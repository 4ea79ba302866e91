"""Text only: products whose words are like those of what the user had lately.

    score(u, p) = Σ_j δ^(steps back) t_j · t_p

with t the frozen, mean-pooled BERT features of unit length (Reimers and Gurevych 2019, arXiv:1908.10084), centred: what
all texts share tells none apart (Mu and Viswanath 2018, arXiv:1702.01417). Nothing is learned from interactions.
"""

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.likeness import Factored, LikenessRanker
from model.baselines.space import Axis, Choice, Real
from model.baselines.taken import HistoryConfig
from model.ranker import Ranker


class TextOnlyConfig(HistoryConfig):
    """How a history is weighted."""

    position_decay: float = Field(0.5, gt=0, le=1, description="factor for each later interaction of the user")
    centred: bool = Field(True, description="take the mean of all texts away from each, and scale to length one again")


GRID = tuple(TextOnlyConfig(position_decay=decay) for decay in (0.5, 0.3, 0.6, 0.7, 0.8, 0.9))
SPACE: Mapping[str, Axis] = {
    "half_life_days": Choice((None, 28.0, 91.0, 365.0)),
    "position_decay": Real(0.2, 1),
}


def fit(data: FitData, config: TextOnlyConfig) -> Ranker:
    """Take the text features."""
    ranker = LikenessRanker("text_only", [(1, text_cosine(data, config.centred))], config, data.product_count)
    return popular_when_cold(ranker, data)


def text_cosine(data: FitData, centred: bool) -> Factored:
    """Return how alike the products' texts are."""
    text = data.text()
    if centred:
        text = text - text.mean(axis=0)
        text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9)
    return Factored(text)
