"""What is added to the model's scores beside the list itself: by a query, by categories of the context, by rules.

The unit is the standard deviation of a user's scores over the catalogue, so that a weight means the same to every user
and model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.scoring import QUERY, RULE
from server.filters import CatalogueFilters
from server.question import Question
from server.rulebook import MOST_LEVELS, Effect

SEARCH_WEIGHT = 20.0
"""What a full fit with a search's query adds, learned with `server.search.finder.MEANING_SHARE`."""

CONTEXT_QUERY_WEIGHT = 10.0
"""What a full fit with the query of a context adds."""

CONTEXT_CATEGORY_WEIGHT = 3.0
"""What being in a category of the context adds."""

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lifts:
    """What is added to the scores of a question's products.

    Args:
        query: `[P]` by what is looked for; None for nothing.
        rule: `[P]` by the shop's rules; None for nothing.
        levels: masks `[P]`, each of the products that rules and categories lift alike; one None where all are, and
            none at all where there are more than `MOST_LEVELS` of them.
    """

    query: Float32s | None
    rule: Float32s | None
    levels: tuple[Bools | None, ...]

    @property
    def both(self) -> Float32s | None:
        """Return the sum `[P]`."""
        if self.query is None or self.rule is None:
            return self.rule if self.query is None else self.query
        return self.query + self.rule

    def more(self, product_index: Int64s, fit: Float32s) -> None:
        """Add what some products of a context's query have for how well they fit."""
        assert self.query is not None
        self.query[product_index] += fit * np.float32(CONTEXT_QUERY_WEIGHT)

    def parts(self, product_index: Int64s, unit: float) -> dict[str, Float32s]:
        """Return the components of some products, as name to `[K]`.

        Args:
            product_index: `[K]`.
            unit: the standard deviation of the user's scores.
        """
        named = ((QUERY, self.query), (RULE, self.rule))
        return {name: lift[product_index] * np.float32(unit) for name, lift in named if lift is not None}


def lifts_of(question: Question, effect: Effect, filters: CatalogueFilters, product_count: int) -> Lifts:
    """Return what is added to the products of a question whose query is found already."""
    query: Float32s | None = None
    levels = effect.levels
    if question.categories:
        inside = filters.in_categories(question.categories)
        query = inside * np.float32(CONTEXT_CATEGORY_WEIGHT)
        levels = tuple(side if each is None else each & side for each in levels for side in (inside, ~inside))
        levels = levels if len(levels) <= MOST_LEVELS else ()
    if question.fit is not None:
        query = np.zeros(product_count, np.float32) if query is None else query
        weight = SEARCH_WEIGHT if question.only_found else CONTEXT_QUERY_WEIGHT
        query[question.fit.product_index] += question.fit.fit * np.float32(weight)
    return Lifts(query, effect.lift, levels)
