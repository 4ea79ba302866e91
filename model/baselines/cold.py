"""What a personal ranker says of users it can say nothing of: what is popular, as any shop would."""

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.popularity import popularity
from model.ranker import Ranker

_HALF_LIFE_DAYS = 182.0


class _PopularWhenCold:
    def __init__(self, ranker: Ranker, popular: npt.NDArray[np.float32]) -> None:
        self.name = ranker.name
        self._ranker = ranker
        self._popular = popular

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        scores = self._ranker.scores(histories, now_ms)
        nothing = (np.diff(histories.offsets) == 0) | ~scores.any(axis=1)
        scores[nothing] = self._popular
        return scores


def popular_when_cold(ranker: Ranker, data: FitData) -> Ranker:
    """Return the ranker, with popularity for a user without a history, or with one that it gives no score."""
    return _PopularWhenCold(ranker, popularity(data.known, data.product_count, _HALF_LIFE_DAYS))
