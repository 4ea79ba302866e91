"""What is known, and what is asked: leave-one-out and global temporal splits of the histories.

A `Case` is one question to a ranker: for each of B users the history known at the moment of asking, and the products
that followed. A `Split` has two: one for tuning, one that is touched at the end. Nothing of a case's truth is in its
`known`, and nothing of either truth in `Split.train`.

- *leave-one-out*: a user's last interaction is the test, the one before it the validation, the rest is trained on. The
  usual protocol of published sequence rankers; other users' later interactions are known, as in those papers.
- *temporal*: one moment for all users. Before it everything is known, after it everything is asked. No interaction of
  the future is known about anybody; the protocol that comes nearest to production. Facts have no time: relations that
  may tell of later days belong into `model.exclude_relations`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from kg.snapshot import Histories, Snapshot
from kg.tables import CODES, InteractionType
from model.errors import ModelError

DAY_MS = 86_400_000

Protocol = Literal["leave-one-out", "temporal"]


class SplitConfig(BaseModel):
    """How histories are split. An artifact's manifest holds the one it was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Field("leave-one-out", description="leave-one-out or temporal")
    repeats: bool = Field(False, description="whether products the user has had before may be ranked and count")
    min_history: int = Field(1, ge=0, description="target interactions that a user must have before the question")
    min_product_interactions: int = Field(
        0, ge=0, description="interactions, in all, that a product needs to be a candidate"
    )
    target_types: tuple[InteractionType, ...] = Field(
        (), description="interaction types that are asked for; empty: all"
    )
    validation_days: float = Field(14, gt=0, description="length of the temporal validation window, days")
    test_days: float = Field(21, gt=0, description="length of the temporal test window, days")
    test_from_ms: int | None = Field(None, description="first moment of the test window, instead of test_days")
    validation_from_ms: int | None = Field(None, description="first moment of the validation window")


@dataclass(frozen=True)
class Case:
    """One question to a ranker: B users, what is known of them, and the truth.

    Args:
        name: `validation` or `test`, and what was narrowed.
        known: the interactions of all U users that are known when the question is asked; baselines are fitted on these.
        user_index: `[B]` int64, the users that are asked about.
        truth_offsets: `[B + 1]` int64.
        truth_product_index: `[T]` int32, the right products of each user: unique, ascending, never empty.
        now_ms: `[B]` int64, the moment of the question.
        exclude_seen: products in the user's known history may not be ranked (and are not in the truth).
        candidates: `[P]` bool, the products that may be ranked.
    """

    name: str
    known: Histories
    user_index: npt.NDArray[np.int64]
    truth_offsets: npt.NDArray[np.int64]
    truth_product_index: npt.NDArray[np.int32]
    now_ms: npt.NDArray[np.int64]
    exclude_seen: bool
    candidates: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.user_index)

    @cached_property
    def histories(self) -> Histories:
        """The known histories of the B users."""
        return self.known.take(self.user_index)

    def truth(self, row: int) -> npt.NDArray[np.int32]:
        """Return the right products of one of the B users."""
        return self.truth_product_index[self.truth_offsets[row] : self.truth_offsets[row + 1]]

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
        )

    def new_only(self) -> "Case":
        """Return the case narrowed to products that are new to the user; users left without truth drop out."""
        size = len(self.candidates)
        users = np.repeat(self.user_index, np.diff(self.truth_offsets))
        new = ~np.isin(users * size + self.truth_product_index, _pairs(self.known, size))
        kept_before = np.concatenate([[0], np.cumsum(new)])
        case = replace(
            self,
            name=f"{self.name}, new products",
            truth_offsets=kept_before[self.truth_offsets].astype(np.int64),
            truth_product_index=self.truth_product_index[new],
            exclude_seen=True,
        )
        return case.take(np.flatnonzero(np.diff(case.truth_offsets)))


@dataclass(frozen=True)
class Split:
    """Histories to train on, a case to tune on, a case to report."""

    config: SplitConfig
    train: Histories
    validation: Case
    test: Case


def make_split(snapshot: Snapshot, config: SplitConfig) -> Split:
    """Split a snapshot's histories as configured.

    Raises:
        ModelError: no user is left to ask about.
    """
    if config.protocol == "leave-one-out":
        return leave_one_out(snapshot.histories, len(snapshot.products), config)
    return temporal(snapshot.histories, len(snapshot.products), config)


def leave_one_out(histories: Histories, product_count: int, config: SplitConfig) -> Split:
    """Ask for each user's last interaction (test) and the one before it (validation).

    Users with fewer than `min_history + 2` target interactions are not asked about; all of theirs is trained on.

    Raises:
        ModelError: no user has enough interactions.
    """
    row_count = len(histories.product_index)
    users = histories.users_of_rows()
    rows = np.arange(row_count)
    target = _target_rows(histories, config)
    before = np.concatenate([[0], np.cumsum(target)])
    target_count = before[histories.offsets[1:]] - before[histories.offsets[:-1]]
    asked = target_count >= config.min_history + 2
    target_at = np.flatnonzero(target)

    def question(name: str, from_end: int) -> Case:
        """Ask for the target interaction that has `from_end` others after it."""
        wanted = np.full(len(histories), row_count)  # users who are not asked about: everything of theirs is known
        wanted[asked] = target_at[before[histories.offsets[1:]][asked] - 1 - from_end]
        now_ms = np.zeros(len(histories), np.int64)
        now_ms[asked] = histories.at_ms[wanted[asked]]
        is_truth = np.zeros(row_count, np.bool_)
        is_truth[wanted[asked]] = True
        return _case(name, histories, rows < wanted[users], is_truth, now_ms, product_count, config)

    validation, test = question("validation", 1), question("test", 0)
    return _checked(Split(config, validation.known, validation, test))


def temporal(histories: Histories, product_count: int, config: SplitConfig) -> Split:
    """Ask for what comes after one moment, the same for all users: train | validation window | test window.

    The windows are counted back from the last interaction unless `test_from_ms` and `validation_from_ms` are set.

    Raises:
        ModelError: the windows are out of order, or no user is left.
    """
    last_ms = int(histories.at_ms.max(initial=0)) + 1
    test_from = last_ms - round(config.test_days * DAY_MS) if config.test_from_ms is None else config.test_from_ms
    validation_from = config.validation_from_ms
    if validation_from is None:
        validation_from = test_from - round(config.validation_days * DAY_MS)
    if not validation_from < test_from:
        raise ModelError(
            f"the validation window starts at {validation_from} ms, not before the test window's {test_from} ms",
            "Set split.validation_from_ms to an earlier moment than split.test_from_ms.",
        )
    target = _target_rows(histories, config)
    users = histories.users_of_rows()

    def question(name: str, start_ms: int, end_ms: int) -> Case:
        known = histories.at_ms < start_ms
        known_count = np.bincount(users[known & target], minlength=len(histories))
        is_truth = target & ~known & (histories.at_ms < end_ms) & (known_count >= config.min_history)[users]
        now_ms = np.full(len(histories), start_ms, np.int64)
        return _case(name, histories, known, is_truth, now_ms, product_count, config)

    validation = question("validation", validation_from, test_from)
    return _checked(Split(config, validation.known, validation, question("test", test_from, last_ms)))


def _case(
    name: str,
    histories: Histories,
    is_known: npt.NDArray[np.bool_],
    is_truth: npt.NDArray[np.bool_],
    now_ms: npt.NDArray[np.int64],
    product_count: int,
    config: SplitConfig,
) -> Case:
    """Collect the truth of all users, then keep those who have one."""
    known = histories.where(is_known)
    candidates = np.bincount(histories.product_index, minlength=product_count) >= config.min_product_interactions
    is_truth = is_truth & candidates[histories.product_index]
    pairs = _pairs(histories.where(is_truth), product_count)
    users, products = np.divmod(pairs, product_count)
    counts = np.bincount(users, minlength=len(histories))
    case = Case(
        name=name,
        known=known,
        user_index=np.arange(len(histories)),
        truth_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        truth_product_index=products.astype(np.int32),
        now_ms=now_ms,
        exclude_seen=False,
        candidates=candidates,
    )
    if config.repeats:
        return case.take(np.flatnonzero(counts))
    return replace(case.new_only(), name=name)


def _target_rows(histories: Histories, config: SplitConfig) -> npt.NDArray[np.bool_]:
    if not config.target_types:
        return np.ones(len(histories.product_index), np.bool_)
    return np.isin(histories.type, [CODES[kind] for kind in config.target_types])


def _pairs(histories: Histories, product_count: int) -> npt.NDArray[np.int64]:
    """Return `user * product_count + product` of every pair that occurs, unique, ascending."""
    return np.unique(histories.users_of_rows() * product_count + histories.product_index)


def _checked(split: Split) -> Split:
    for case in (split.validation, split.test):
        if not len(case):
            raise ModelError(
                f"the {split.config.protocol} split leaves no user to ask about in its {case.name} part",
                "Use more data, another protocol, fewer split.min_history, or other windows.",
            )
    return split
