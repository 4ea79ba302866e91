"""Slices: who is in which group, and whether the groups add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.case import SplitConfig
from model.compare.slices import by_age, by_history, by_popularity, equal_groups, found_pairs
from model.metrics import per_user
from model.splits import leave_one_out
from tests.model.test_splits import histories_of, random_shop

CONFIG = SplitConfig(repeats=True)


def test_groups_are_about_equal_and_named_by_their_values() -> None:
    bins = equal_groups(np.array([1, 1, 2, 3, 4, 5, 6, 7, 8, 90]))
    assert list(bins.labels) == ["1", "2–3", "4", "5–6", "7–90"]
    assert bins.index.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 4]


def test_values_that_tie_make_one_group_and_missing_ones_their_own() -> None:
    bins = equal_groups(np.array([5, 5, -1, 5]), missing="none")
    assert list(bins.labels) == ["none", "5"]
    assert bins.index.tolist() == [1, 1, 0, 1]
    assert list(equal_groups(np.array([-1, -1]), missing="none").labels) == ["none"]


@given(st.lists(st.integers(-1, 1000), min_size=1, max_size=60))
def test_everything_is_in_one_group(values: list[int]) -> None:
    bins = equal_groups(np.array(values, np.int64), missing="none")
    assert len(bins.index) == len(values)
    assert ((bins.index >= 0) & (bins.index < len(bins.labels))).all()


def test_slices_add_up_to_the_whole() -> None:
    case = leave_one_out(random_shop(4, users=80), 30, CONFIG).test
    ranked = np.random.default_rng(1).permuted(np.tile(np.arange(30, dtype=np.int32), (len(case), 1)), axis=1)[:, :20]
    values = per_user(ranked, case.truth_offsets, case.truth_product_index)["ndcg@10"][:, None]
    slices = by_history(case, values)
    assert sum(part.count for part in slices) == len(case)
    assert sum(part.count * part.means[0] for part in slices) / len(case) == pytest.approx(values.mean())
    found = found_pairs(ranked, case, 20)[:, None]
    assert found.mean() == pytest.approx(
        per_user(ranked, case.truth_offsets, case.truth_product_index)["recall@20"].mean()
    )
    for parts in (by_popularity(case, found), by_age(case, found)):
        assert sum(part.count for part in parts) == len(found)


def test_popularity_and_age_are_those_that_are_known_at_the_question() -> None:
    # The last interaction of each is asked for: product 3, which two others have had, and product 9, which nobody had.
    case = leave_one_out(histories_of([[0, 1, 3], [3, 1, 1, 1, 9], [3, 3, 2, 4]]), 10, CONFIG).test
    assert [part.label for part in by_popularity(case, np.zeros((3, 1)))] == ["0", "3"]
    assert [part.label for part in by_age(case, np.zeros((3, 1)))] == ["none yet", "2"]
