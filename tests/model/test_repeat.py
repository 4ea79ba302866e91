import numpy as np
import torch

from kg.snapshot import Histories
from model.popularity import ProductStatistics, product_statistics
from model.repeat import RepeatScore, feature_count, repeat_features

DAY_MS = 86_400_000
STATISTICS = ProductStatistics(np.zeros(9, np.float32), np.zeros(9, np.float32), np.zeros(9, np.bool_))


def bought(days: list[int], products: list[int], offsets: list[int]) -> Histories:
    count = len(days)
    return Histories(
        np.array(offsets, np.int64),
        np.array(products, np.int32),
        np.zeros(count, np.int8),
        np.array(days, np.int64) * DAY_MS,
        np.ones(count, np.float32),
    )


def test_counts_fade_by_half_in_a_half_life() -> None:
    histories = bought([0, 10, 20], [7, 7, 2], [0, 3])
    repeats = repeat_features(histories, np.array([20 * DAY_MS]), (10.0,), STATISTICS)
    assert repeats.product_index.tolist() == [2, 7]
    np.testing.assert_allclose(repeats.features[:, 0], np.log1p([1.0, 0.25 + 0.5]), rtol=1e-6)


def test_users_are_kept_apart_and_a_cold_user_has_none() -> None:
    histories = bought([1, 2, 3], [5, 5, 5], [0, 2, 2, 3])
    repeats = repeat_features(histories, np.full(3, 4 * DAY_MS), (10.0,), STATISTICS)
    assert repeats.offsets.tolist() == [0, 1, 1, 2]
    assert repeats.users().tolist() == [0, 2]
    assert repeats.features[0, 0] > repeats.features[1, 0]


def test_empty_histories_are_scored_to_nothing() -> None:
    repeats = repeat_features(bought([], [], [0, 0]), np.array([0]), (10.0, 20.0), STATISTICS)
    assert repeats.features.shape == (0, feature_count((10.0, 20.0)))
    assert RepeatScore(feature_count((10.0, 20.0)))(torch.from_numpy(repeats.features)).shape == (0,)


def test_popularity_fades_and_stays_with_its_product() -> None:
    histories = bought([0, 10, 10], [1, 1, 0], [0, 2, 3])
    statistics = product_statistics(histories, 10 * DAY_MS, 10.0, 3)
    np.testing.assert_allclose(statistics.popularity, np.log1p([1.0, 1.0, 0.0]), rtol=1e-6)  # two by one user: one
    np.testing.assert_allclose(statistics.rebuy, np.log([3 / 2, 4 / 2, 2]), rtol=1e-6)
