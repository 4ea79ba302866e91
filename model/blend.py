"""The weights of the score's components, chosen on validation data.

The network is trained without the text component, and for one balance of the others. What each should count is a
question of a few numbers, and validation answers it: coordinate search over a grid, for the best NDCG@10. It looks at
each user's most promising products by any component, not at the catalogue again for every grid point. What newcomers
are given is chosen afterwards, on a case that asks for them (`model.newcomers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from model.metrics import per_user
from model.ranker import top_k
from model.scorer import Blend, TrainedModel
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, NEWCOMER, POPULARITY, TEXT, components, full_scores
from model.splits import Case

GRID: dict[str, tuple[float, ...]] = {
    TEXT: (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0),
    NEIGHBOURS: (0.0, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0),
    # Never 0: popularity is all that speaks for a product when nothing is known of the user.
    POPULARITY: (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0),
    HISTORY: (0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 80.0, 120.0),
}
NEWCOMER_GRID = (*np.arange(0, 2.75, 0.25).tolist(), 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0)
_LEAST_LEFT = 0.85
"""What newcomers are given must leave others this share of the NDCG@10 that they have without."""
_LOOKED_AT = 4000
"""Users at most whose right products are newcomers, and as many others."""
_OF_NEW = (TEXT, NEIGHBOURS, POPULARITY)
_PROMISING = 100
"""Products of a user that are looked at by each component that could bring one up."""
_BATCH = 256


@dataclass(frozen=True)
class _Shortlists:
    """Promising products of B users: `products [B, C]`, and what each component of unit weight gives them `[B, C]`."""

    products: npt.NDArray[np.int32]
    parts: dict[str, npt.NDArray[np.float32]]


_Looked = tuple[_Shortlists, Case]


def fit_blend(model: TrainedModel, case: Case) -> Blend:
    """Return the best weights.

    Where products are had again, nearly all of a good list is repeats, and they leave the other weights to chance: so
    those are fitted on what is new to the user, and then the repeats against them on everything.
    """
    if model.network.repeat is None:
        return _fit(model, model.blend, case, _OF_NEW)
    new = case.new_only()
    blend = _fit(model, model.blend, new, _OF_NEW) if len(new) else model.blend
    return _fit(model, blend, case, (HISTORY,))


def fit_newcomer(asked: Sequence[tuple[TrainedModel, Case]], share: float) -> Blend:
    """Return the weights with the least for newcomers that lets them reach a share of the NDCG@10 of other products.

    What it costs those others is bounded. Where the share is out of reach, newcomers are given what brings them most.

    Args:
        asked: the same model with some products as newcomers, and what to choose by then; pairs of equal importance.
        share: of the others' NDCG@10.
    """
    best = replace(asked[0][0].blend, newcomer=0.0)
    looked_at: tuple[list[_Looked], list[_Looked]] = ([], [])
    for model, case in asked:
        unit = model.with_blend(Blend(1, 1, 1, 1, 1, 1))
        newcomer = model.statistics.newcomer[case.truth_product_index]
        for right, looked in zip((newcomer, ~newcomer), looked_at, strict=True):
            part = case.narrowed(right, case.name)
            part = part.take(np.linspace(0, len(part) - 1, min(len(part), _LOOKED_AT)).astype(np.int64))
            if len(part):
                looked.append((_shortlists(unit, best, part), part))
    if not all(looked_at):
        return best
    best_value, before = 0.0, 0.0
    for weight in NEWCOMER_GRID:
        tried = replace(best, newcomer=weight)
        value, others = (float(np.mean([_ndcg(lists, tried, part) for lists, part in looked])) for looked in looked_at)
        before = before or others
        if others < _LEAST_LEFT * before:
            break
        if value > best_value:
            best, best_value = tried, value
        if value >= share * others:
            break
    return best


def _fit(model: TrainedModel, best: Blend, case: Case, names: tuple[str, ...]) -> Blend:
    """Search the weights in `names`, one after the other, twice."""
    shortlists = _shortlists(model.with_blend(Blend(1, 1, 1, 1, 1, 1)), best, case)
    best_value = -1.0
    for _ in range(2 if len(names) > 1 else 1):
        for name in names:
            if not shortlists.parts[name].any():
                continue
            for weight in GRID[name]:
                tried = replace(best, **{name: weight})
                value = _ndcg(shortlists, tried, case)
                if value > best_value:
                    best, best_value = tried, value
    return best


def _ndcg(shortlists: _Shortlists, blend: Blend, case: Case) -> float:
    weights = blend.as_dict()
    total = sum(weights[name] * part for name, part in shortlists.parts.items())
    order = np.argsort(-np.asarray(total), axis=1, kind="stable")[:, :10]
    ranked = np.take_along_axis(shortlists.products, order, axis=1)
    return float(per_user(ranked, case.truth_offsets, case.truth_product_index, (10,))["ndcg@10"].mean())


@torch.inference_mode()
def _shortlists(unit: TrainedModel, start: Blend, case: Case) -> _Shortlists:
    newcomer = unit.statistics.newcomer
    lists = 2 + (unit.neighbours is not None) + bool(newcomer.any())
    products, parts = [], []
    started = unit.with_blend(start)
    for at in range(0, len(case), _BATCH):
        rows = np.arange(at, min(at + _BATCH, len(case)))
        histories, now_ms = case.histories.take(rows), case.now_ms[rows]
        users = unit.encode_users(histories, now_ms)
        seen = None if case.seen is None else case.seen.take(rows)
        scores = full_scores(started, started.encode_users(histories, now_ms)).numpy()
        found = [top_k(scores, _PROMISING, seen=seen, candidates=case.candidates)[0]]
        if newcomer.any():
            found.append(top_k(scores, _PROMISING, seen=seen, candidates=case.candidates & newcomer)[0])
        columns = unit.blocks[TEXT]
        text = (users.vectors[:, columns] @ unit.matrix[:, columns].T).numpy()
        found.append(top_k(text, _PROMISING, seen=seen, candidates=case.candidates)[0])
        near = unit.near(histories, now_ms)
        if near is not None:
            found.append(top_k(near.toarray(), _PROMISING, seen=seen, candidates=case.candidates)[0])
        for row in range(len(rows)):
            chosen = np.unique(np.concatenate([each[row] for each in found]))
            chosen = chosen[chosen >= 0]
            size = lists * _PROMISING
            products.append(np.resize(chosen, size) if len(chosen) else np.zeros(size, np.int32))
            part = components(unit, users, row, products[-1].astype(np.int64))
            for values in part.values():
                values[len(chosen) :] = -np.inf if values is part[GRAPH] else 0
            parts.append(part)
    names = (GRAPH, TEXT, HISTORY, POPULARITY, NEIGHBOURS, NEWCOMER)
    return _Shortlists(np.stack(products), {name: np.stack([part[name] for part in parts]) for name in names})
