"""Ranking by text alone: what a fine-tuned encoder is validated by.

    score(u, p) = Σ_j δ^(steps back) t_j · t_p         t: features centred over the catalogue, of unit length

It is the text component of the model (model.scorer) with all its axes. Centring takes out what all texts share, which
frozen encoders are full of (Mu and Viswanath 2018, arXiv:1702.01417); so frozen and fine-tuned features are compared in
the form that is best for both.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kg.snapshot import Histories
from model.case import Case
from model.history import recent_events
from model.metrics import per_user
from model.ranker import Float32s, Int64s, Ranker, rank


@dataclass(frozen=True)
class Quality:
    """NDCG@10 on all users of a case, and on those whose product is cold (None where there are none)."""

    ndcg: float
    cold_ndcg: float | None

    def measure(self, cold_share: float) -> float:
        """Return the one number that epochs are chosen by."""
        return self.ndcg if self.cold_ndcg is None else (1 - cold_share) * self.ndcg + cold_share * self.cold_ndcg


class TextRanker:
    """A `Ranker` by text features alone.

    Args:
        features: `[P, W]` of the products, of any length.
        decay: weight of an interaction, per step back.
        length: last interactions that count.
        centre: whether what all texts share is taken out.
    """

    name = "text alone"

    def __init__(self, features: Tensor, decay: float, length: int, *, centre: bool = True) -> None:
        self._text = F.normalize(features - features.mean(0) if centre else features, dim=1)
        self._decay = decay
        self._length = length

    @torch.inference_mode()
    def scores(self, histories: Histories, now_ms: Int64s) -> Float32s:
        """Return the score of every product `[B, P]`."""
        events = recent_events(histories, self._length)
        back = events.length[:, None] - 1 - torch.arange(events.product.shape[1])  # [B, L]
        weight = torch.where(back >= 0, self._decay ** back.clamp(min=0), 0.0)
        users = (weight[:, None, :] @ F.embedding(events.product, self._text))[:, 0]
        scores: Float32s = (users @ self._text.T).numpy()
        return scores


def cold_part(case: Case, trained_on: Histories, most: int) -> Case:
    """Return the case narrowed to products with at most `most` interactions in training; it may have no users."""
    count = np.bincount(trained_on.product_index, minlength=len(case.candidates))
    return case.narrowed(count[case.truth_product_index] <= most, f"{case.name}, cold products")


def ndcg_of_users(ranker: Ranker, case: Case) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return NDCG@10 of every user of a case `[B]`, all candidates ranked."""
    return per_user(rank(ranker, case, 10), case.truth_offsets, case.truth_product_index, (10,))["ndcg@10"]


def quality(ranker: Ranker, case: Case, cold: Case) -> Quality:
    """Return how well a ranker does on a case and on its cold part."""
    return Quality(
        float(ndcg_of_users(ranker, case).mean()), float(ndcg_of_users(ranker, cold).mean()) if len(cold) else None
    )
