import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.exhaustive import ExhaustiveSearch, Pairs
from model.metrics import PADDING
from model.scoring import full_scores
from tests.model.test_retrieval import Products, products, users


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 3000),
    dimensions=st.integers(1, 40),
    k=st.integers(1, 30),
    batch=st.integers(1, 140),
    left_out=st.integers(0, 50),
    strength=st.sampled_from([1.0, 1e7, 0.0]),
    seed=st.integers(0, 1000),
)
def test_lists_are_those_of_all_scores(
    count: int, dimensions: int, k: int, batch: int, left_out: int, strength: float, seed: int
) -> None:
    model = Products(torch.from_numpy(products(count, dimensions, seed)))
    asked = users(batch, dimensions, count, seed + 1)
    asked.added_score[:] *= strength
    generator = np.random.default_rng(seed)
    row = np.repeat(np.arange(batch), left_out)
    excluded = Pairs(row, generator.integers(count, size=len(row)))
    found = ExhaustiveSearch(model, k).search(asked, excluded)
    scores = full_scores(model, asked).numpy()
    scores[excluded.row, excluded.product_index] = -np.inf
    best = -np.sort(-scores, axis=1)[:, :k]
    exists = np.isfinite(best)
    assert (found.product_index != PADDING).tolist() == exists.tolist()
    assert found.score[exists] == pytest.approx(best[exists], rel=1e-5, abs=1e-4)
    rows = np.nonzero(exists)[0]
    assert scores[rows, found.product_index[exists]] == pytest.approx(best[exists], rel=1e-5, abs=1e-4)


def test_users_for_whom_the_scan_proves_nothing_get_the_right_list_too() -> None:
    # All products differ by less than a step of the codes: one outlier gives the scale.
    matrix = np.full((4000, 8), 0.5, np.float32) + np.random.default_rng(1).normal(0, 1e-4, (4000, 8)).astype(
        np.float32
    )
    matrix[7] = 100
    model = Products(torch.from_numpy(matrix))
    asked = users(5, 8, 4000, 2)
    truth = full_scores(model, asked).topk(10, dim=1).values.numpy()
    assert ExhaustiveSearch(model, 10).search(asked).score == pytest.approx(truth, rel=1e-5)


def test_equal_scores_stand_in_the_order_of_their_products() -> None:
    model = Products(torch.ones(2000, 4))
    found = ExhaustiveSearch(model, 5).search(users(3, 4, 2000, 1, repeated=0))
    assert (np.diff(found.product_index, axis=1) > 0).all()
