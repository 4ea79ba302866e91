"""What a request asks and what the engine answers, apart from how either is sent."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


class UserState(Enum):
    """How a user was known when the answer was computed."""

    WARM = "warm"
    FEW_EVENTS = "few_events"
    COLD = "cold"
    CONTEXT_ONLY = "context_only"


@dataclass(frozen=True, slots=True)
class ContextEvent:
    """An interaction told with a request: product, `kg.tables.CODES` type, time (None: now), value (NaN: none)."""

    product_id: str
    type: int
    at_ms: int | None
    value: float


@dataclass(frozen=True, slots=True)
class PriceRange:
    """Prices from `min` to `max`, ends included; None: no end. Products without a price only if `allow_unpriced`."""

    min: float | None = None
    max: float | None = None
    allow_unpriced: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Which products may be ranked; every part that is set must hold.

    Args:
        categories: paths from the root, joined by ` > `: in one of them or below it.
        brands: of one of these.
        price: in this range.
        attributes: keys, each with the values of which a product must have one.
        only_available: leave out what can't be had now.
    """

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    price: PriceRange | None = None
    attributes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    only_available: bool = False


NO_FILTER = Filter()


@dataclass(frozen=True, slots=True)
class Mix:
    """How a list is put together out of well ranked products.

    Args:
        diversity: from 0, the best by score alone, to 1, as unlike each other as can be.
        max_per_brand: most results of one brand; None: no limit.
        max_per_category: most results of one deepest category; None: no limit.
        exploration_share: share of the results for products that few users have had.
    """

    diversity: float = 0.0
    max_per_brand: int | None = None
    max_per_category: int | None = None
    exploration_share: float = 0.0


NO_MIX = Mix()


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits a query, and how well, from 0 to 1: `product_index [N]` ascending, `fit [N]`.

    `corrected` is the query as it was understood where typing errors were mended, else empty; `whole` says that no
    other products fit, `whole_near` that no others fit by meaning. For what is asked of others later: `text` is what
    was looked for, `best` the best BM25 for it.
    """

    product_index: Int64s
    fit: Float32s
    corrected: str = ""
    whole: bool = True
    whole_near: bool = True
    text: str = ""
    best: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """Which products suit a user: of the whole catalogue, or of `candidates` where they are given.

    Args:
        user_id: empty for an anonymous visitor.
        k: how many results; None: all candidates.
        exclude_seen: leave out what the history holds; None: what suits the data set.
        exclude: product ids to leave out.
        candidates: the only product ids that may be ranked; None: the whole catalogue.
        events: context interactions, oldest first.
        seeds: context products, taken as viewed now; never results themselves unless they are candidates.
        filter: what else holds for the products that may be ranked.
        mix: how the list is put together.
        query: what is looked for, in words; products that fit it are put forward.
        categories: categories of the context, as paths; products below them are put forward.
        only_found: nothing but what fits the query may be ranked: a search.
        fit: what fits the query, once that is found.
        searched: what the user has searched for lately, each with its weight (`server.past_searches`).
        lean: the vector of that in the text component `[K]`, once it is made; at most of length 1.
        language: of the reasons, of `kg.wording.WORDINGS`.
        by_rules: what the shop blocks is left out; an explanation of one product leaves that aside.
        pinned: what the shop pins has its place.
    """

    user_id: str
    k: int | None
    exclude_seen: bool | None = None
    exclude: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    events: tuple[ContextEvent, ...] = ()
    seeds: tuple[str, ...] = ()
    filter: Filter = NO_FILTER
    mix: Mix = NO_MIX
    query: str = ""
    categories: tuple[str, ...] = ()
    only_found: bool = False
    fit: Fit | None = None
    searched: tuple[tuple[str, float], ...] = ()
    lean: Float32s | None = None
    by_rules: bool = True
    pinned: bool = False
    language: str = "en"

    @property
    def has_context(self) -> bool:
        """Whether the request tells of interactions that the stored history does not have."""
        return bool(self.events or self.seeds)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer: products best first.

    Shapes: `product_index [K]`, `score [K]`, `parts` component name to `[K]`; a product's parts add up to its score.
    """

    product_index: Int64s
    score: Float32s
    parts: dict[str, Float32s]
    state: UserState = UserState.COLD
    missing: tuple[str, ...] = ()
    corrected: str = ""
