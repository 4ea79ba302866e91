"""Splits: known answers on a tiny shop, and what must hold on any."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.snapshot import Histories
from kg.tables import CODES, InteractionType
from model.case import Protocol, joined
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
from model.ranker import rank
from model.splits import DAY_MS, Split, SplitConfig, leave_one_out, make_split, temporal
from tests.model.plain_data import plain_snapshot, truth_of

PRODUCTS = 6


def histories_of(users: list[list[int]], *, step_ms: int = DAY_MS) -> Histories:
    """Each user's products in order; the n-th interaction of a user happens on day n."""
    lengths = [len(user) for user in users]
    size = sum(lengths)
    return Histories(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        product_index=np.array([product for user in users for product in user], np.int32),
        type=np.full(size, CODES[InteractionType.PURCHASE], np.int8),
        at_ms=np.array([day * step_ms for user in users for day in range(len(user))], np.int64),
        value=np.full(size, np.nan, np.float32),
    )


def sequences(histories: Histories) -> list[list[int]]:
    return [histories.product_index[histories.rows(user)].tolist() for user in range(len(histories))]


def test_leave_one_out_asks_for_the_last_two_interactions() -> None:
    split = leave_one_out(histories_of([[0, 1, 2, 3], [4, 5], [5, 4, 3]]), PRODUCTS, SplitConfig())
    assert sequences(split.train) == [[0, 1], [4, 5], [5]]
    assert sequences(split.test.known) == [[0, 1, 2], [4, 5], [5, 4]]
    assert split.validation.user_index.tolist() == split.test.user_index.tolist() == [0, 2]
    assert split.validation.truth_product_index.tolist() == [2, 4]
    assert split.test.truth_product_index.tolist() == [3, 3]
    assert split.test.now_ms.tolist() == [3 * DAY_MS, 2 * DAY_MS]
    assert sequences(split.test.histories) == [[0, 1, 2], [5, 4]]


def test_leave_one_out_asks_only_for_target_types() -> None:
    histories = histories_of([[0, 1, 2, 3, 4]])
    histories.type[[2, 4]] = CODES[InteractionType.VIEW]
    split = leave_one_out(histories, PRODUCTS, SplitConfig(target_types=(InteractionType.PURCHASE,)))
    assert split.test.truth_product_index.tolist() == [3]
    assert sequences(split.test.known) == [[0, 1, 2]]
    assert split.validation.truth_product_index.tolist() == [1]


def test_products_had_before_are_asked_for_only_when_repeats_are_allowed() -> None:
    histories = histories_of([[0, 1, 2, 0], [0, 1, 2, 3]])
    without = leave_one_out(histories, PRODUCTS, SplitConfig())
    assert without.test.user_index.tolist() == [1]
    assert without.test.exclude_seen
    with_repeats = leave_one_out(histories, PRODUCTS, SplitConfig(repeats=True))
    assert with_repeats.test.truth_product_index.tolist() == [0, 3]
    assert not with_repeats.test.exclude_seen
    assert with_repeats.test.new_only().user_index.tolist() == [1]


def test_temporal_asks_everybody_at_the_same_moment() -> None:
    config = SplitConfig(protocol="temporal", repeats=True, validation_days=1, test_days=2)
    split = temporal(histories_of([[0, 1, 2, 3, 4], [5, 5, 5], [1, 2]]), PRODUCTS, config)
    # The last interaction is on day 4, so the test window starts one millisecond after day 2.
    assert sequences(split.test.known) == [[0, 1, 2], [5, 5, 5], [1, 2]]
    assert split.test.user_index.tolist() == [0]
    assert truth_of(split.test, 0).tolist() == [3, 4]
    assert sequences(split.train) == [[0, 1], [5, 5], [1, 2]]
    assert split.validation.user_index.tolist() == [0, 1]
    assert split.validation.truth_product_index.tolist() == [2, 5]
    assert set(split.test.now_ms.tolist()) == {2 * DAY_MS + 1}


def test_rare_products_are_no_candidates_and_no_truth() -> None:
    histories = histories_of([[0, 1, 2], [1, 0, 1, 0], [0, 1, 3, 4]])
    split = leave_one_out(histories, PRODUCTS, SplitConfig(repeats=True, min_product_interactions=2))
    assert split.test.candidates.tolist() == [True, True, False, False, False, False]
    assert split.test.user_index.tolist() == [1]


def test_a_split_without_users_to_ask_is_refused() -> None:
    with pytest.raises(ModelError, match="no user to ask about"):
        leave_one_out(histories_of([[0, 1], [2]]), PRODUCTS, SplitConfig())


def test_windows_out_of_order_are_refused() -> None:
    config = SplitConfig(protocol="temporal", test_from_ms=5, validation_from_ms=5)
    with pytest.raises(ModelError, match="validation window starts"):
        temporal(histories_of([[0, 1, 2]]), PRODUCTS, config)


@given(
    st.lists(st.lists(st.integers(0, PRODUCTS - 1), max_size=8), min_size=1, max_size=8),
    st.sampled_from(["leave-one-out", "temporal"]),
    st.booleans(),
)
def test_truth_comes_after_what_is_known(users: list[list[int]], protocol: str, repeats: bool) -> None:
    histories = histories_of(users)
    config = SplitConfig.model_validate(
        {"protocol": protocol, "repeats": repeats, "test_days": 2, "validation_days": 2, "min_history": 1}
    )
    make = leave_one_out if protocol == "leave-one-out" else temporal
    try:
        split = make(histories, PRODUCTS, config)
    except ModelError:
        return
    assert sequences(split.train) == sequences(split.validation.known)
    for case in (split.validation, split.test):
        for row, user in enumerate(case.user_index):
            known, everything = sequences(case.known)[user], users[user]
            assert everything[: len(known)] == known
            truth = truth_of(case, row).tolist()
            assert truth
            assert truth == sorted(set(truth))
            assert set(truth) <= set(everything[len(known) :])
            if not repeats:
                assert not set(truth) & set(known)
            assert (case.histories.at_ms[case.histories.rows(row)] <= case.now_ms[row]).all()


def random_shop(seed: int, users: int = 40, products: int = 30) -> Histories:
    generator = np.random.default_rng(seed)
    return histories_of([generator.integers(0, products, generator.integers(0, 14)).tolist() for _ in range(users)])


def cold_split(protocol: str, base: str, seed: int) -> tuple[Split, Histories]:
    histories = random_shop(seed)
    config = SplitConfig.model_validate(
        {"protocol": protocol, "base": base, "repeats": True, "cold_share": 0.3, "cold_seed": seed}
        | {"cold_events": (0, 1, 3), "test_days": 3, "validation_days": 3}
    )
    split = (leave_one_out if base == "leave-one-out" else temporal)(histories, 30, config)
    hold_out = hold_out_products if protocol == "cold-products" else hold_out_users
    return hold_out(split, histories), histories


class Flat:
    """Ranks all products alike."""

    name = "flat"

    def __init__(self, products: int) -> None:
        self._products = products

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.zeros((len(histories), self._products), np.float32)


every_base = pytest.mark.parametrize("base", ["leave-one-out", "temporal"])


@every_base
@given(seed=st.integers(0, 1000))
def test_cold_products_are_nowhere_but_in_the_truth(base: str, seed: int) -> None:
    split, _ = cold_split("cold-products", base, seed)
    assert split.held_out is not None
    cold = {question.name: question for question in split.questions}
    asked = [set(case.truth_product_index.tolist()) for case in (cold[COLD].validation, cold[COLD].test)]
    assert not asked[0] & asked[1]
    for question in split.questions:
        for case in (question.validation, question.test):
            assert not split.held_out[case.known.product_index].any()
            assert not split.held_out[case.histories.product_index].any()
            held = split.held_out[case.truth_product_index]
            assert not held.any() if question.name == WARM else held.all()
            assert case.candidates[case.truth_product_index].all()
    assert not split.held_out[split.train.product_index].any()
    assert cold[COLD].test.candidates.all()
    assert (cold[AMONG_COLD].test.candidates & split.held_out).sum() == cold[AMONG_COLD].test.candidates.sum()
    half = len(cold[COLD].validation)
    assert half <= len(split.validation) <= 2 * half


@pytest.mark.parametrize("missing", ["cold", "warm"])
def test_cold_products_without_cold_or_without_warm_ones_to_ask_for_are_refused(missing: str) -> None:
    share = {"cold": 0.01, "warm": 0.45}[missing]  # of four products: none, or two for validation and two for the test
    config = SplitConfig(protocol="cold-products", cold_share=share, min_history=0)
    snapshot = plain_snapshot(histories_of([[user % 4, (user + 1) % 4, (user + 2) % 4] for user in range(8)]), 4)
    with pytest.raises(ModelError, match=f"no user to ask about in its validation, {missing} products") as refused:
        make_split(snapshot, config)
    assert "split.cold_share" in str(refused.value)


@every_base
@given(seed=st.integers(0, 1000))
def test_cold_users_are_asked_with_part_of_what_they_had(base: str, seed: int) -> None:
    split, histories = cold_split("cold-users", base, seed)
    questions = {question.name: question for question in split.questions}
    whole = questions[WHOLE].test
    asked = set(whole.user_index.tolist()), set(questions[WHOLE].validation.user_index.tolist())
    assert not asked[0] & asked[1]
    trained = {user for user in range(len(histories)) if len(split.train.product_index[split.train.rows(user)])}
    assert not trained & (asked[0] | asked[1])
    for name, question in questions.items():
        case = question.test
        assert case.user_index.tolist() == whole.user_index.tolist()
        assert case.truth_product_index.tolist() == whole.truth_product_index.tolist()
        given, everything = sequences(case.histories), sequences(whole.histories)
        for count in (0, 1, 3):
            if name == first_events(count):
                assert given == [products[:count] for products in everything]
            if name == last_events(count):
                assert given == [products[-count:] for products in everything]
        assert all(len(products) > 3 for products in everything)
        assert all(
            (case.histories.at_ms[case.histories.rows(row)] <= case.now_ms[row]).all() for row in range(len(case))
        )


@every_base
@given(seed=st.integers(0, 1000), protocol=st.sampled_from(["cold-products", "cold-users"]))
def test_what_a_user_has_had_is_not_ranked_though_a_part_alone_is_told(base: str, seed: int, protocol: str) -> None:
    split, histories = cold_split(protocol, base, seed)
    cases = [case for each in split.questions for case in (each.validation, each.test)]
    for asked in [*cases, split.validation]:
        case = asked.new_only()
        if not len(case):
            continue
        seen = case.seen
        assert seen is not None
        told, had = sequences(case.histories), sequences(seen)
        for row, user in enumerate(case.user_index.tolist()):
            assert set(told[row]) <= set(had[row])
            assert not set(had[row]) & set(truth_of(case, row).tolist())
            before = histories.at_ms[histories.rows(user)] < case.now_ms[row]
            assert set(had[row]) == set(histories.product_index[histories.rows(user)][before].tolist())
        ranked = rank(Flat(len(case.candidates)), case, 5)
        assert not any(set(ranked[row].tolist()) & set(had[row]) for row in range(len(case)))


def test_joined_cases_are_asked_one_after_the_other() -> None:
    split, _ = cold_split("cold-users", "leave-one-out", 3)
    parts = [question.test for question in split.questions[:3]]
    together = joined(parts)
    assert len(together) == sum(map(len, parts))
    at = 0
    for part in parts:
        rows = together.take(np.arange(at, at + len(part)))
        assert sequences(rows.histories) == sequences(part.histories)
        assert rows.truth_product_index.tolist() == part.truth_product_index.tolist()
        at += len(part)


def test_what_was_trained_on_follows_from_few_fields() -> None:
    plain = SplitConfig()
    assert plain.trained_by() == SplitConfig(repeats=True, cold_share=0.2, test_days=3).trained_by()
    assert plain.trained_by() != SplitConfig(protocol="temporal").trained_by()
    cold = SplitConfig(protocol="cold-users")
    assert cold.trained_by() == SplitConfig(protocol="cold-users", cold_events=(5, 2)).trained_by()
    assert cold.trained_by() != SplitConfig(protocol="cold-users", cold_events=(2,)).trained_by()
    assert cold.trained_by() != SplitConfig(protocol="cold-users", cold_seed=8).trained_by()
    assert cold.trained_by() != SplitConfig(protocol="cold-users", base="temporal").trained_by()


@every_base
@given(seed=st.integers(0, 1000))
def test_whoever_was_trained_on_alike_has_not_seen_the_users_asked_about(base: str, seed: int) -> None:
    histories = random_shop(seed, users=200)
    make = leave_one_out if base == "leave-one-out" else temporal
    configs = [
        SplitConfig.model_validate(
            {"protocol": "cold-users", "base": base, "repeats": repeats, "test_days": 3, "validation_days": 3}
            | {"cold_events": given_events, "min_product_interactions": least}
        )
        for given_events in ((0, 1, 3, 5), (2,), (5,))
        for repeats, least in ((True, 0), (False, 5))
    ]
    splits = [hold_out_users(make(histories, 30, config), histories) for config in configs]
    leaks = 0
    for trained in splits:
        rows = np.diff(trained.train.offsets)
        for asked in splits:
            cases = [case for question in asked.questions for case in (question.validation, question.test)]
            seen = sum(int((rows[case.user_index] > 0).sum()) for case in cases)
            leaks += seen
            if trained.config.trained_by() == asked.config.trained_by():
                assert not seen
    assert leaks  # those that are trained on otherwise have seen some


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal", "cold-products", "cold-users"])
def test_a_snapshot_without_interactions_leads_to_loading_some(protocol: Protocol) -> None:
    empty = plain_snapshot(histories_of([]), PRODUCTS)
    with pytest.raises(ModelError, match="the snapshot has no interactions") as raised:
        make_split(empty, SplitConfig(protocol=protocol))
    assert "kgrank load" in raised.value.remedy
