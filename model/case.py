"""What is asked of a ranker, and of whom: the plain values that protocols make and everything else reads."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kg.snapshot import Histories
from kg.tables import InteractionType

DAY_MS = 86_400_000

Protocol = Literal["leave-one-out", "temporal", "cold-products", "cold-users"]
_COLD = ("cold-products", "cold-users")

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""


class SplitConfig(BaseModel):
    """How histories are split. An artifact's manifest holds the one it was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Field(
        "leave-one-out", description="what is held back: last interactions, last days, whole products, whole users"
    )
    repeats: bool = Field(False, description="whether products the user has had before may be ranked and count")
    min_history: int = Field(1, ge=0, description="target interactions that a user must have before the question")
    min_product_interactions: int = Field(
        0, ge=0, description="interactions, in all, that a product needs to be a candidate"
    )
    target_types: tuple[InteractionType, ...] = Field(
        (), description="interaction types that are asked for; empty: all"
    )
    validation_days: float = Field(14, gt=0, le=36_500, description="length of the temporal validation window, days")
    test_days: float = Field(21, gt=0, le=36_500, description="length of the temporal test window, days")
    test_from_ms: int | None = Field(
        None, ge=0, le=_LAST_MS, description="first moment of the test window, instead of test_days"
    )
    validation_from_ms: int | None = Field(None, ge=0, le=_LAST_MS, description="first moment of the validation window")
    base: Literal["leave-one-out", "temporal"] = Field(
        "leave-one-out", description="cold protocols: which interactions are asked for, and when"
    )
    cold_share: float = Field(
        0.1, gt=0, le=0.45, description="cold protocols: share of products or users held out for the test"
    )
    cold_seed: int = Field(7, ge=0, le=2**31 - 1, description="cold protocols: seed of the draw of what is held out")
    cold_events: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(
        (0, 1, 3, 5), min_length=1, description="cold-users: how many first interactions of a user are given"
    )

    @field_validator("cold_events")
    @classmethod
    def _each_once(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(counts)) < len(counts):
            raise ValueError("a number stands there twice; each may once")
        return counts

    def trained_by(self) -> dict[str, Any]:
        """Return what decides what is trained on, by field; who may be asked for what does not."""
        names = ["protocol", "min_history", "target_types"]
        if self.protocol in _COLD:
            names += ["base", "cold_share", "cold_seed"]
        if "temporal" in (self.protocol, self.base if self.protocol in _COLD else None):
            names += ["validation_days", "test_days", "test_from_ms", "validation_from_ms"]
        described = self.model_dump(mode="json")
        decided = {name: described[name] for name in names}
        if self.protocol == "cold-users":  # held out are some of those who had more than this
            decided["max(cold_events)"] = max(self.cold_events)
        return decided


@dataclass(frozen=True)
class Case:
    """One question to a ranker: B users, what is known of them, and the truth.

    Args:
        name: `validation` or `test`, and what was narrowed.
        known: the interactions of all U users that are known when the question is asked; baselines are fitted on these.
        user_index: `[B]` int64, the users that are asked about; one may be asked about more than once.
        truth_offsets: `[B + 1]` int64.
        truth_product_index: `[T]` int32, the right products of each user: unique, ascending, never empty.
        now_ms: `[B]` int64, the moment of the question.
        exclude_seen: products that the user has had may not be ranked (and are not in the truth).
        candidates: `[P]` bool, the products that may be ranked.
        given: the histories of the B users, where they are not those in `known`: of users held out of training.
        had: all that the B users did before, where the ranker is told of a part only.
    """

    name: str
    known: Histories
    user_index: npt.NDArray[np.int64]
    truth_offsets: npt.NDArray[np.int64]
    truth_product_index: npt.NDArray[np.int32]
    now_ms: npt.NDArray[np.int64]
    exclude_seen: bool
    candidates: npt.NDArray[np.bool_]
    given: Histories | None = None
    had: Histories | None = None

    def __len__(self) -> int:
        return len(self.user_index)

    @cached_property
    def histories(self) -> Histories:
        """The histories that the B users are asked with."""
        return self.known.take(self.user_index) if self.given is None else self.given

    @property
    def seen(self) -> Histories | None:
        """The histories of the B users whose products may not be ranked; None where all may."""
        if not self.exclude_seen:
            return None
        return self.histories if self.had is None else self.had

    def rows_of_truth(self) -> npt.NDArray[np.int64]:
        """Return the row, 0 to B - 1, that each right product belongs to `[T]`."""
        return np.repeat(np.arange(len(self)), np.diff(self.truth_offsets))

    def take(self, rows: npt.NDArray[np.integer]) -> "Case":
        """Return the case with only some of its users, in the order given."""
        lengths = np.diff(self.truth_offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.truth_offsets[rows] - offsets[:-1], lengths)
        return replace(
            self,
            user_index=self.user_index[rows],
            truth_offsets=offsets,
            truth_product_index=self.truth_product_index[places],
            now_ms=self.now_ms[rows],
            given=None if self.given is None else self.given.take(rows),
            had=None if self.had is None else self.had.take(rows),
        )

    def narrowed(self, keep: npt.NDArray[np.bool_], name: str) -> "Case":
        """Return the case with only the right products that `keep [T]` marks; users left without truth drop out."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        case = replace(
            self,
            name=name,
            truth_offsets=kept_before[self.truth_offsets].astype(np.int64),
            truth_product_index=self.truth_product_index[keep],
        )
        return case.take(np.flatnonzero(np.diff(case.truth_offsets)))

    def new_only(self) -> "Case":
        """Return the case narrowed to products that are new to the user; users left without truth drop out."""
        size = len(self.candidates)
        asked = self.rows_of_truth() * size + self.truth_product_index
        whole = self.histories if self.had is None else self.had
        had = whole.users_of_rows() * size + whole.product_index
        return replace(self, exclude_seen=True).narrowed(~np.isin(asked, had), f"{self.name}, new products")


def joined(cases: list[Case]) -> Case:
    """Return several cases over the same known histories and candidates as one, in order."""
    first = cases[0]
    rows = [np.diff(case.truth_offsets) for case in cases]
    return replace(
        first,
        user_index=np.concatenate([case.user_index for case in cases]),
        truth_offsets=np.concatenate([[0], np.cumsum(np.concatenate(rows))]).astype(np.int64),
        truth_product_index=np.concatenate([case.truth_product_index for case in cases]),
        now_ms=np.concatenate([case.now_ms for case in cases]),
        given=_stacked([case.histories for case in cases]),
        had=_stacked([case.histories if case.had is None else case.had for case in cases]),
    )


def _stacked(histories: list[Histories]) -> Histories:
    return Histories(
        np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.offsets) for part in histories]))]),
        *(
            np.concatenate([getattr(part, name) for part in histories])
            for name in ("product_index", "type", "at_ms", "value")
        ),
    )


@dataclass(frozen=True)
class Question:
    """One figure of a report: the same question on validation data and on test data.

    Args:
        name: what is asked, as a table's title has it.
        validation: asked while choosing.
        test: asked at the end.
        tuned_alone: baselines are tuned for this question, not for the split's own validation case.
    """

    name: str
    validation: Case
    test: Case
    tuned_alone: bool = False


@dataclass(frozen=True)
class Split:
    """Histories to train on, a case to tune on, a case to report.

    Args:
        config: how it was made.
        train: the interactions to learn from.
        validation: what epochs, weights and configurations are chosen by.
        test: the case to report first.
        questions: everything to report; the first one's test is `test`.
        held_out: `[P]` bool, products that training must not see at all; none when unset.
    """

    config: SplitConfig
    train: Histories
    validation: Case
    test: Case
    questions: tuple[Question, ...] = ()
    held_out: npt.NDArray[np.bool_] | None = None
