"""What ranks: a protocol that baselines and the network share, and exact top-k over its scores."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from kg.snapshot import Histories
from model.case import Case
from model.metrics import PADDING
from model.scoring import ScoringModel, full_scores

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
Ranked = npt.NDArray[np.int32]
Advance = Callable[[int], None]

_BLOCK_BYTES = 64 * 2**20


class Ranker(Protocol):
    """Scores every product for any users, each given by a history."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def scores(self, histories: Histories, now_ms: Int64s) -> Float32s:
        """Return a score for every product `[B, P]`, higher is better; a fresh array that the caller may change.

        Args:
            histories: B histories, oldest first; an empty one is a cold user.
            now_ms: `[B]` the moment to rank for; nothing in a history is later.
        """


class ModelRanker:
    """The trained network as a ranker."""

    def __init__(self, name: str, model: ScoringModel) -> None:
        self.name = name
        self._model = model

    def scores(self, histories: Histories, now_ms: Int64s) -> Float32s:
        """Return the network's scores `[B, P]`."""
        with torch.inference_mode():
            scores: Float32s = full_scores(self._model, self._model.encode_users(histories, now_ms)).numpy()
        return scores


def top_k(
    scores: Float32s, k: int, *, seen: Histories | None = None, candidates: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.int32], Float32s]:
    """Return the best k products of each row and their scores, best first; exact.

    Args:
        scores: `[B, P]`; changed in place.
        k: length of the lists, at most P of them are used.
        seen: `[B]` histories whose products are left out.
        candidates: `[P]` the products that may be ranked; by default all.

    Returns:
        Product indices `[B, k]`, `PADDING` where fewer products are left, and scores `[B, k]`, -inf there. Equal scores
        stand in the order of their product index.
    """
    if candidates is not None:
        scores[:, ~candidates] = -np.inf
    if seen is not None:
        scores[seen.users_of_rows(), seen.product_index] = -np.inf
    found = torch.topk(torch.from_numpy(scores), min(k + 1, scores.shape[1]), dim=1)
    values, products = found.values.numpy(), found.indices.numpy()
    if values.shape[1] > k:
        tied = np.flatnonzero((values[:, k - 1] == values[:, k]) & (values[:, k] > -np.inf))
        values, products = values[:, :k], products[:, :k]
        for row in tied:  # of those that are alike at the list's end, topk takes any
            products[row] = _first_best(scores[row], values[row, -1], k)
            values[row] = scores[row, products[row]]
    order = np.lexsort((products, -values), axis=1)
    values, products = np.take_along_axis(values, order, 1), np.take_along_axis(products, order, 1)
    width = ((0, 0), (0, k - values.shape[1]))
    values = np.pad(values, width, constant_values=-np.inf)
    products = np.pad(products, width, constant_values=PADDING)
    return np.where(np.isneginf(values), PADDING, products).astype(np.int32), values


def _first_best(scores: Float32s, last: np.float32, k: int) -> Int64s:
    """Return the k best products `[k]` of scores `[P]`; of those as good as the k-th, `last`, the first ones."""
    above, alike = np.flatnonzero(~(scores <= last)), np.flatnonzero(scores == last)  # NaN, too, as topk has it
    return np.concatenate([above, alike[: k - len(above)]])


def rank(ranker: Ranker, case: Case, k: int, advance: Advance = lambda count: None) -> Ranked:
    """Return every user's first k products `[B, k]`, all candidates ranked, in blocks of bounded memory."""
    block = max(1, _BLOCK_BYTES // (4 * len(case.candidates)))
    lists = []
    for start in range(0, len(case), block):
        part = case.take(np.arange(start, min(start + block, len(case))))
        scores = ranker.scores(part.histories, part.now_ms)
        lists.append(top_k(scores, k, seen=part.seen, candidates=part.candidates)[0])
        advance(len(part))
    return np.concatenate(lists)
