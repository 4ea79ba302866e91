"""Intervals, paired differences and Holm's correction: known answers, and what must hold under the null."""

import numpy as np
import pytest

from model.compare.statistics import Sample, differences, estimates, holm, margin, resampled_means
from model.metrics import bootstrap


def test_holm_by_hand() -> None:
    # Sorted: .01, .02, .03, .04 times 4, 3, 2, 1 = .04, .06, .06, .04, made to rise.
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert len(holm(np.empty(0))) == 0


def test_intervals_are_those_of_the_plain_bootstrap() -> None:
    values = np.random.default_rng(1).random((400, 2))
    plain = bootstrap(values, np.random.default_rng(2), resamples=2000)
    found = estimates(values, resampled_means(values, np.random.default_rng(2), 2000))
    for one, other in zip(plain, found, strict=True):
        assert other.mean == pytest.approx(one.mean)
        assert other.low == pytest.approx(one.low, abs=0.004)
        assert other.high == pytest.approx(one.high, abs=0.004)


def test_a_difference_is_judged_on_the_same_users() -> None:
    generator = np.random.default_rng(3)
    users = generator.random(300) * 10  # users differ far more than models do
    values = np.stack([users, users + 0.1 + generator.normal(0, 0.1, 300), users], axis=1)
    found = differences(values, resampled_means(values, np.random.default_rng(4), 2000), 0)
    itself, better, same = found
    assert itself.p == 1
    assert better.estimate.mean == pytest.approx(-0.1, abs=0.02)
    assert better.estimate.high < 0
    assert better.clear
    assert better.p_holm == pytest.approx(2 * better.p)
    assert same.p == 1
    assert not same.clear


def test_a_margin_is_the_paired_difference_where_the_users_are_the_same() -> None:
    values = np.random.default_rng(6).random((300, 2))
    values[:, 1] += values[:, 0]
    means = resampled_means(values, np.random.default_rng(7), 500)
    plain = differences(values, means, 0)[1].estimate
    users = np.arange(300)
    one, other = (Sample(users, column) for column in values.T)
    found = margin(one, other, 1.0, np.random.default_rng(7), 500)
    for end in ("mean", "low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(plain, end))
    scaled = margin(one, Sample(users, 2 * one.values), 0.25, np.random.default_rng(7), 500)
    assert scaled.low == pytest.approx(0.5 * estimates(values, means)[0].low)


def test_a_margin_over_other_users_has_the_spread_of_both() -> None:
    generator = np.random.default_rng(8)
    one = Sample(np.arange(4000), generator.normal(1, 1, 4000))
    other = Sample(np.arange(4000, 5000), generator.normal(1, 1, 1000))
    found = margin(one, other, 1.0, np.random.default_rng(9), 1000)
    spread = (one.values.var() / 4000 + other.values.var() / 1000) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(found.mean, abs=0.2 * spread)
    lone = margin(Sample(np.array([0]), np.ones(1)), Sample(np.array([1]), np.ones(1)), 1.0, generator, 100)
    assert (lone.low, lone.high) == (0, 0)


def test_under_the_null_few_differences_are_found() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(0, 1, (200, 201))
    found = differences(values, resampled_means(values, generator, 500), 0)
    by_chance = np.mean([difference.p < 0.05 for difference in found[1:]])
    assert by_chance < 0.3  # all share one reference, so they come together
    assert sum(difference.clear for difference in found[1:]) <= 2
