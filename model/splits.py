"""What is known, and what is asked: leave-one-out, global temporal and cold-start splits of the histories.

A `Case` is one question to a ranker: for each of B users the history known at the moment of asking, and the products
that followed. A `Split` has two: one for tuning, one that is touched at the end. Nothing of a case's truth is in its
`known`, and nothing of either truth in `Split.train`.

- *leave-one-out*: a user's last interaction is the test, the one before it the validation, the rest is trained on. The
  usual protocol of published sequence rankers; other users' later interactions are known, as in those papers.
- *temporal*: one moment for all users. Before it everything is known, after it everything is asked. No interaction of
  the future is known about anybody; the protocol that comes nearest to production. Facts have no time: relations that
  may tell of later days belong into `model.exclude_relations`.
- *cold-products* and *cold-users*: one of these two, with products or users held out (model.cold_splits).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories, Snapshot
from kg.tables import CODES
from model.case import DAY_MS, Case, Protocol, Question, Split, SplitConfig
from model.cold_splits import (
    AMONG_COLD,
    COLD,
    WARM,
    WHOLE,
    first_events,
    hold_out_products,
    hold_out_users,
    last_events,
)
from model.errors import ModelError

__all__ = [
    "DAY_MS",
    "Case",
    "Protocol",
    "Question",
    "Split",
    "SplitConfig",
    "leave_one_out",
    "make_split",
    "question_names",
    "temporal",
]

ALL, NEW = "all products", "products new to the user"
"""The question for any product, and the one for products that a user has not had."""


def make_split(snapshot: Snapshot, config: SplitConfig) -> Split:
    """Split a snapshot's histories as configured.

    Raises:
        ModelError: there are no interactions, or no user is left to ask about.
    """
    histories, product_count = snapshot.histories, len(snapshot.products)
    if not len(histories.product_index):
        raise ModelError(
            "the snapshot has no interactions to learn from",
            "Load some: kgrank load; then make another: kgrank snapshot.",
        )
    cold = config.protocol in ("cold-products", "cold-users")
    base = leave_one_out if (config.base if cold else config.protocol) == "leave-one-out" else temporal
    split = base(histories, product_count, config)
    if config.protocol == "cold-products":
        return _checked(hold_out_products(split, histories))
    if config.protocol == "cold-users":
        return _checked(hold_out_users(split, histories))
    return split


def question_names(config: SplitConfig) -> tuple[str, ...]:
    """Return the questions that a split asks, the last of which it may have no user for."""
    if config.protocol == "cold-products":
        return COLD, AMONG_COLD, WARM
    if config.protocol == "cold-users":
        first = tuple(first_events(count) for count in config.cold_events)
        return *first, *(last_events(count) for count in config.cold_events if count), WHOLE
    return (ALL, NEW) if config.repeats else (NEW,)


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

    return _split(config, question("validation", 1), question("test", 0))


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
    return _split(config, validation, question("test", test_from, last_ms))


def _split(config: SplitConfig, validation: Case, test: Case) -> Split:
    if not config.repeats:
        questions = [Question(NEW, validation, test)]
    else:
        questions = [Question(ALL, validation, test)]
        new = Question(NEW, validation.new_only(), test.new_only(), tuned_alone=True)
        if len(new.validation) and len(new.test):
            questions.append(new)
    return _checked(Split(config, validation.known, validation, test, tuple(questions)))


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
    cold = split.config.protocol in ("cold-products", "cold-users")
    # Of what is held out, validation asks beside what is not: with one of both alone nothing can be chosen.
    parts = [question.validation for question in split.questions] if cold else []
    for case in (*parts, split.validation, split.test):
        if not len(case):
            share = ", another split.cold_share" if cold else ""
            raise ModelError(
                f"the {split.config.protocol} split leaves no user to ask about in its {case.name} part",
                f"Use more data, another protocol{share}, fewer split.min_history, or other windows.",
            )
    return split
