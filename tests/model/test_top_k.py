"""Exact top-k: sorted, unseen, the same as a full sort."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics import PADDING
from model.ranker import top_k
from tests.model.rankers import PRODUCTS, random_histories


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


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 1200), st.integers(1, 40))
def test_equal_scores_stand_in_the_order_of_their_index_whatever_the_length(
    seed: int, k: int, products: int, values: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, values, (5, products)).astype(np.float32)
    listed, found = top_k(scores.copy(), k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert (listed[:, : order.shape[1]] == order).all()
    assert (found[:, : order.shape[1]] == np.take_along_axis(scores, order, 1)).all()
    assert (listed[:, order.shape[1] :] == PADDING).all()
    longer = top_k(scores.copy(), 2 * k)
    assert (longer[0][:, :k] == listed).all()
    assert (longer[1][:, :k] == found).all()


def test_a_shorter_list_begins_a_longer_one() -> None:
    alike = np.ones((1, 1000), np.float32)
    assert top_k(alike.copy(), 20)[0][:, :10].tolist() == top_k(alike.copy(), 10)[0].tolist() == [list(range(10))]


def test_scores_that_are_no_numbers_end_nothing() -> None:
    scores = np.ones((1, 50), np.float32)
    scores[0, 7] = np.nan
    assert sorted(top_k(scores, 3)[0][0].tolist()) == [0, 1, 7]


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
