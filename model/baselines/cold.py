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
        scores[np.diff(histories.offsets) == 0] = 0  # whatever a network makes of nothing
        others = scores.copy()
        others[histories.users_of_rows(), histories.product_index] = 0
        silent = np.flatnonzero(~others.any(axis=1))
        own = scores[silent]
        least = np.where(own > 0, own, np.inf).min(axis=1, initial=np.inf)
        scale = np.where(np.isfinite(least), least / 2, 1) / max(float(self._popular.max(initial=0)), 1e-12)
        scores[silent] = own + scale[:, None].astype(np.float32) * self._popular
        return scores


def popular_when_cold(ranker: Ranker, data: FitData) -> Ranker:
    """Return the ranker, with popularity for users of whose history it follows nothing but what they had themselves."""
    return _PopularWhenCold(ranker, popularity(data.known, data.product_count, _HALF_LIFE_DAYS))
