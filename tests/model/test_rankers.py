"""The contract of every ranker: one suite, run for each baseline and for whatever is added to the registry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.snapshot import Histories
from model.baselines import BASELINES, frequency, itemknn, popularity
from model.metrics import PADDING
from model.ranker import Ranker, top_k
from model.splits import DAY_MS
from tests.model.plain_data import plain_data
from tests.model.test_splits import histories_of

PRODUCTS = 40
NOW = 100 * DAY_MS

every_baseline = pytest.mark.parametrize("name", list(BASELINES))


def fitted(name: str, known: Histories, products: int = PRODUCTS) -> Ranker:
    baseline = BASELINES[name]
    return baseline.fit(plain_data(known, products), baseline.grid[0])


def random_histories(seed: int, users: int = 60) -> Histories:
    generator = np.random.default_rng(seed)
    return histories_of([generator.integers(0, PRODUCTS, generator.integers(0, 12)).tolist() for _ in range(users)])


@every_baseline
def test_a_batch_equals_single_calls(name: str) -> None:
    known = random_histories(1)
    ranker = fitted(name, known)
    together = ranker.scores(known, np.full(len(known), NOW))
    assert together.shape == (len(known), PRODUCTS)
    assert together.dtype == np.float32
    for user in range(len(known)):
        alone = ranker.scores(known.take(np.array([user])), np.array([NOW]))
        assert np.allclose(alone[0], together[user], rtol=1e-6, atol=0)


@every_baseline
def test_every_configuration_of_the_grid_scores_finitely(name: str) -> None:
    known = random_histories(2)
    for config in BASELINES[name].grid:
        ranker = BASELINES[name].fit(plain_data(known, PRODUCTS), config)
        assert ranker.name == name
        assert np.isfinite(ranker.scores(known, np.full(len(known), NOW))).all()


@every_baseline
def test_a_user_without_history_gets_a_list(name: str) -> None:
    products, _ = top_k(fitted(name, random_histories(3)).scores(histories_of([[]]), np.array([NOW])), 5)
    assert len(set(products[0].tolist())) == 5


@every_baseline
def test_fitting_leaves_the_histories_as_they_were(name: str) -> None:
    known = random_histories(4)
    before = known.product_index.copy()
    for array in (known.product_index, known.offsets, known.at_ms):
        array.setflags(write=False)  # as in a memory-mapped snapshot
    fitted(name, known).scores(known, np.full(len(known), NOW))
    assert (known.product_index == before).all()


@pytest.mark.parametrize("name", ["itemknn"])
def test_the_checkerboard_is_solved(name: str) -> None:
    # Even users have even products, odd users odd ones, each all but one of its colour: the missing one comes first.
    size = 20
    boards = [[p for p in range(size) if p % 2 == user % 2 and p != user] for user in range(size)]
    known = histories_of(boards)
    scores = fitted(name, known, size).scores(known, np.full(size, NOW))
    products, _ = top_k(scores, 1, seen=known)
    assert products[:, 0].tolist() == list(range(size))


def test_popularity_counts_and_forgets() -> None:
    known = histories_of([[0, 0, 0, 1], [1, 2, 2, 2]])
    assert popularity.fit(plain_data(known, 3), popularity.PopularityConfig()).weight.tolist() == [3, 2, 3]
    # The last interaction is on day 3; an interaction on day d counts 0.5^(3 - d).
    recent = popularity.fit(plain_data(known, 3), popularity.PopularityConfig(half_life_days=1)).weight
    assert recent.tolist() == [0.125 + 0.25 + 0.5, 1 + 0.125, 0.25 + 0.5 + 1]


def test_frequency_puts_the_own_products_first_then_the_popular() -> None:
    known = histories_of([[0, 0, 1], [2, 2, 2, 3]])
    ranker = fitted("frequency", known, 5)
    products, _ = top_k(ranker.scores(known, np.full(2, NOW)), 4)
    assert products.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]


def test_frequency_forgets() -> None:
    known = histories_of([[0, 0, 1]])
    ranker = frequency.fit(plain_data(known, 2), frequency.FrequencyConfig(half_life_days=0.5))
    products, _ = top_k(ranker.scores(known, np.array([2 * DAY_MS])), 2)
    assert products.tolist() == [[1, 0]]


def test_itemknn_is_the_cosine_of_user_sets() -> None:
    known = histories_of([[0, 1], [0, 1], [0, 2]])
    ranker = itemknn.fit(plain_data(known, 3), itemknn.ItemKnnConfig())
    scores = ranker.scores(histories_of([[1]]), np.array([NOW]))
    assert scores[0] == pytest.approx([2 / np.sqrt(3 * 2), 1, 0])


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_top_k_is_sorted_unseen_and_exact(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    seen = random_histories(seed % 1000, 8)
    candidates = generator.random(PRODUCTS) < 0.7
    scores = generator.integers(0, 6, (8, PRODUCTS)).astype(np.float32)
    allowed = np.tile(candidates, (8, 1))
    allowed[seen.users_of_rows(), seen.product_index] = False
    products, values = top_k(scores.copy(), k, seen=seen, candidates=candidates)
    assert products.shape == values.shape == (8, k)
    for row in range(8):
        listed = products[row][products[row] != PADDING]
        assert len(listed) == min(k, allowed[row].sum())
        assert (products[row][len(listed) :] == PADDING).all()
        assert len(set(listed.tolist())) == len(listed)
        assert allowed[row, listed].all()
        best = np.sort(scores[row][allowed[row]])[::-1][:k]
        assert values[row][: len(listed)].tolist() == best.tolist()
        assert scores[row, listed].tolist() == best.tolist()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5000))
def test_top_k_of_many_products_is_that_of_a_full_sort(seed: int, k: int, products: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 5000, (4, products)).astype(np.float32)
    scores[generator.random(scores.shape) < 0.3] = -np.inf
    listed, values = top_k(scores.copy(), k)
    best = -np.sort(-scores, axis=1)[:, :k]
    assert (values[:, : best.shape[1]] == best).all()
    rows, places = np.nonzero(listed != PADDING)
    assert (scores[rows, listed[rows, places]] == values[rows, places]).all()
    assert (np.isneginf(values) == (listed == PADDING)).all()
    assert all(len(set(row[row != PADDING])) == (row != PADDING).sum() for row in listed)
