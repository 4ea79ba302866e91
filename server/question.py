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
    """

    user_id: str
    k: int | None
    exclude_seen: bool | None = None
    exclude: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    events: tuple[ContextEvent, ...] = ()
    seeds: tuple[str, ...] = ()

    @property
    def has_context(self) -> bool:
        """Whether the request tells more than the stored history does."""
        return bool(self.events or self.seeds)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer: products best first.

    Shapes: `product_index [K]`, `score [K]`, `parts` component name to `[K]`; a product's parts add up to its score.
    """

    product_index: Int64s
    score: Float32s
    parts: dict[str, Float32s]
    state: UserState
    missing: tuple[str, ...] = ()
