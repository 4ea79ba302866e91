"""What a product of the history is worth to a score: the score, less what it would be without that product.

It is the model's own answer to "why": nothing is approximated but very long histories, of which the latest part counts.
"""

from collections.abc import Sequence

import numpy as np
import torch

from kg.snapshot import Histories
from model.retrieval import added
from model.scoring import Float32s, Int64s, ScoringModel, UserVectors

_MOST_INTERACTIONS = 8192
"""In all histories that are encoded together."""


@torch.inference_mode()
def score_drops(
    model: ScoringModel, history: Histories, now_ms: int, removed: Sequence[int], candidates: Int64s
) -> Float32s:
    """Return how far scores fall when one product is taken out of a history, with all interactions with it.

    Args:
        model: scores the history.
        history: a batch of one, oldest first.
        now_ms: the moment to rank for.
        removed: R product indices, each taken out by itself.
        candidates: `[K]` product indices whose scores are asked about.

    Returns:
        `[R, K]`, in the units of the score; negative where the product speaks against the candidate.
    """
    if not len(removed) or not len(candidates):
        return np.zeros((len(removed), len(candidates)), np.float32)
    latest = slice(max(0, len(history.product_index) - _MOST_INTERACTIONS // (len(removed) + 1)), None)
    product_index = np.asarray(history.product_index[latest])
    kept = np.vstack([np.ones(len(product_index), bool), product_index != np.asarray(removed)[:, None]])
    row = np.nonzero(kept)[1]
    now_ms = max(now_ms, int(history.at_ms[-1])) if len(row) else now_ms  # where a clock ran ahead
    without = Histories(
        np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64),
        product_index[row],
        np.asarray(history.type[latest])[row],
        np.asarray(history.at_ms[latest])[row],
        np.asarray(history.value[latest])[row],
    )
    users = model.encode_users(without, np.full(len(kept), now_ms), candidates)
    scores = _scores(model, users, candidates)
    drops: Float32s = scores[0] - scores[1:]
    return drops


def strengths(drops: Float32s) -> Float32s:
    """Return drops as numbers from 0 to 1: the share by which the odds of a product fall, 1 − exp(−drop).

    A score is a logit of the softmax over the catalogue: when it falls by d, the product's odds fall by the factor e^d.
    """
    made: Float32s = -np.expm1(-np.maximum(drops, 0))
    return made


def _scores(model: ScoringModel, users: UserVectors, candidates: Int64s) -> Float32s:
    """Return the scores of some products for each user `[B, K]`."""
    products = model.matrix[torch.from_numpy(candidates)]
    sparse, _ = added(users, np.tile(candidates, (len(users), 1)), len(model.matrix))
    scores: Float32s = (users.vectors @ products.T).numpy() + sparse
    return scores
