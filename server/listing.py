"""Well ranked products of a catalogue into the list that is sent (`server.mix`)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from kg.snapshot import Snapshot
from model.retrieval import ProductIndex
from model.scoring import DIVERSITY, EXPLORATION, GRAPH, RULE, TEXT, ScoringModel
from server.filters import CatalogueFilters
from server.mix import Pool, arrange
from server.question import NO_MIX, Mix, Ranking
from server.rulebook import Pin

FEW_USERS = 5
"""A product that fewer users have had is new, for a mix's share of exploration."""

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def depth_of(k: int) -> int:
    """Return among how many of the best a mix chooses k."""
    return 4 * k + 20


class Listing:
    """What lists are put together by, of one catalogue.

    Args:
        snapshot: the catalogue.
        scorer: the model over it.
        index: its search index.
        filters: its brands and categories.
    """

    def __init__(
        self, snapshot: Snapshot, scorer: ScoringModel, index: ProductIndex, filters: CatalogueFilters
    ) -> None:
        self._snapshot = snapshot
        self._scorer = scorer
        self._index = index
        self._filters = filters

    def take_over(self, before: "Listing") -> None:
        """Take what was counted for the catalogue before a change, of the same histories."""
        counted = before.__dict__.get("is_fresh")
        if counted is not None:
            more = np.ones(len(self._index) - len(counted), np.bool_)
            self.__dict__["is_fresh"] = np.concatenate([counted, more])

    @cached_property
    def is_fresh(self) -> Bools:
        """Which products few users have had `[P]`, by the snapshot."""
        histories, count = self._snapshot.histories, len(self._index)
        pairs = np.unique(histories.users_of_rows() * count + np.asarray(histories.product_index))
        return np.bincount(pairs % count, minlength=count) < FEW_USERS

    def listed(self, ranking: Ranking, mix: Mix, pins: Sequence[Pin], k: int, floor: float = -np.inf) -> Ranking:
        """Return the first k of a list out of well ranked products, best first; fewer where caps pass over too many.

        A pin of products that are not among them is passed over.

        Args:
            ranking: the products.
            mix: how the list is put together.
            pins: places that are taken.
            k: how many.
            floor: what no other product's score is above; those below it come by a pin or as new ones alone.
        """
        index = ranking.product_index
        places = _places(index, pins)
        if mix == NO_MIX and not places:
            return _taken(ranking, np.arange(min(k, len(index))))
        fresh = self.is_fresh[index] if mix.exploration_share else np.zeros(len(index), np.bool_)
        inside = np.zeros(len(index), np.bool_)
        if mix.diversity:
            inside[: depth_of(k)] = True
            inside[np.flatnonzero(fresh)[: depth_of(k)]] = True
        pool = Pool(
            ranking.score,
            self._filters.brand[index],
            self._filters.category[index],
            fresh,
            inside,
            self._unit(index[inside]),
            ranking.score >= floor,
        )
        made = arrange(pool, k, mix, places)
        taken = _taken(ranking, made.place)
        parts = dict(taken.parts)
        for name, part in ((DIVERSITY, made.diversity), (EXPLORATION, made.exploration), (RULE, made.rule)):
            if part.any():
                parts[name] = parts[name] + part if name in parts else part
        score = (taken.score + made.diversity + made.exploration + made.rule).astype(np.float32)
        # What lifts a product is the distance to the next one's score: the sum may miss that by a rounding.
        return replace(taken, score=np.minimum.accumulate(score), parts=parts)

    def most(self, mix: Mix, allowed: Bools | None) -> int:
        """Return how many products caps let through at most, of those that are allowed `[P]`; None allows all."""
        bounds = [len(self._index)]
        for numbers, cap in (
            (self._filters.brand, mix.max_per_brand),
            (self._filters.category, mix.max_per_category),
        ):
            if cap is not None:
                of = numbers if allowed is None else numbers[allowed]
                bounds.append(int(np.minimum(np.bincount(of[of >= 0]), cap).sum() + np.count_nonzero(of < 0)))
        return min(bounds)

    def _unit(self, product_index: Int64s) -> Float32s:
        """Return vectors whose inner product is the mean of the cosines of graph and text `[K, D]`."""
        matrix = torch.from_numpy(self._index.matrix[product_index])
        blocks = [self._scorer.blocks[name] for name in (GRAPH, TEXT)]
        filled = [torch.nn.functional.normalize(matrix[:, each], dim=1) for each in blocks if each.stop > each.start]
        vectors: Float32s = (torch.cat(filled, dim=1) / len(filled) ** 0.5).numpy()
        return vectors


def _places(product_index: Int64s, pins: Sequence[Pin]) -> list[tuple[int, int]]:
    """Return pairs of a position and the row of well ranked products `[K]`, best first, that a pin puts there."""
    places: dict[int, int] = {}
    for pin in sorted(pins, key=lambda each: np.count_nonzero(each.among)):  # who names one product gets it
        rows = np.flatnonzero(pin.among[product_index])
        free = rows[~np.isin(rows, list(places.values()))]
        if len(free):
            places[pin.position] = int(free[0])
    return sorted(places.items())


def _taken(ranking: Ranking, rows: Int64s) -> Ranking:
    parts = {name: part[rows] for name, part in ranking.parts.items()}
    return replace(ranking, product_index=ranking.product_index[rows], score=ranking.score[rows], parts=parts)
