"""What a product that training has not met is given, to be ranked for what it is and not for its lack of a past.

    score(u, p) += w_c          for a product p that nobody had in what was trained on, where u has a history

Such a product has its text and its facts. Popularity and neighbours are borrowed (`model.borrowing`), its vector is
made of less than those of its rivals: it ranks well among its like, and too low among all. How much too low can be seen
without one: some products are hidden from the finished model, which meets them again as it meets what joins tomorrow
(`model.refresh`). Validation users who went on to one of them say how much it takes, those who went on to any other
say what that costs. The NDCG@10 of all together is nearly the same over a wide range of w_c (on Beauty, from 0 to 1):
what newcomers gain others lose, so it can't choose. w_c is the least that brings newcomers to a share of what others
reach (`train.newcomer_share`). Its default is nearly two thirds: with a half, before anything was borrowed, newcomers
on Beauty's validation data were ranked no better than by text alone, which does not know who is new (NDCG@10 .037
against .040).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories, Snapshot
from kg.vocabulary import Vocabulary
from model.blend import fit_newcomer
from model.case import Case
from model.refresh import extend
from model.scorer import Blend
from model.train import Trained

_HIDDEN = 0.1
"""Share of the products that are hidden: few, as what is new in a shop competes with what is there."""
_DRAWS = 3
"""Draws that are hidden one after the other: a few popular products decide on what one alone says."""
_SEED = 7


def blend_with_newcomers(
    trained: Trained, snapshot: Snapshot, train: Histories, case: Case, cache_folder: Path, share: float
) -> Blend:
    """Return the model's weights with what a newcomer is given, chosen on a validation case.

    Args:
        trained: a finished model over the products of the snapshot, and the graph it was trained on.
        snapshot: products, nodes and facts.
        train: the histories that it was trained on.
        case: validation users; nothing that training has not seen is told to the model.
        cache_folder: where text features are cached.
        share: of the NDCG@10 of others that is sought for newcomers; nothing is given with 0.

    Raises:
        ModelError: the text encoder can't be loaded.
    """
    if not share:
        return replace(trained.model.blend, newcomer=0.0)
    asked, new = [], case.new_only()  # before anything is hidden: nobody buys a newcomer again
    for hidden in _drawn(trained.model.statistics.newcomer):
        given = None if new.given is None else _without(new.given, hidden)
        whole = new.histories if new.had is None else new.had
        without = replace(new, known=_without(new.known, hidden), given=given, had=whole)
        keys = _renamed(trained.graph.keys, hidden)
        now_ms, learned = int(case.now_ms.max()), _without(train, hidden)
        asked.append((extend(trained.model, trained.kernel, keys, snapshot, learned, now_ms, cache_folder), without))
    return fit_newcomer(asked, share)


def _drawn(newcomer: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """Return seeded shares of the products that training has met `[P]`, disjoint."""
    met = np.random.default_rng(_SEED).permutation(np.flatnonzero(~newcomer))
    size = max(1, round(_HIDDEN * len(met)))
    drawn = np.zeros((_DRAWS, len(newcomer)), np.bool_)
    for row in range(_DRAWS):
        drawn[row, met[row * size : (row + 1) * size]] = True
    return list(drawn)


def _without(histories: Histories, hidden: npt.NDArray[np.bool_]) -> Histories:
    return histories.where(~hidden[histories.product_index])


def _renamed(keys: Vocabulary, hidden: npt.NDArray[np.bool_]) -> Vocabulary:
    """Return the keys of a graph's nodes with hidden products under names that no graph has."""
    names = keys.array.to_pylist()
    for row in np.flatnonzero(hidden).tolist():
        names[row] = f"hidden\t{names[row]}"
    return Vocabulary(names)
