"""The coarse scan, and inner products of given products: those that a search refines to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.scan import Scan, _columns, factorise, inner_products


@settings(deadline=None)
@given(
    products=st.integers(1, 50),
    dimensions=st.integers(1, 70),
    users=st.integers(0, 5),
    each=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_each_user_is_multiplied_with_its_own_products(
    products: int, dimensions: int, users: int, each: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(products, dimensions)).astype(np.float32)
    vectors = generator.normal(size=(users, dimensions)).astype(np.float32)
    wanted = generator.integers(-1, products, size=(users, each))
    found = inner_products(matrix, vectors, wanted)
    true = np.einsum("bkd,bd->bk", matrix[wanted].astype(np.float64), vectors.astype(np.float64))
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.where(wanted < 0, -np.inf, true), rtol=1e-5, atol=1e-4)


def test_what_is_not_laid_out_as_it_is_read_is_read_all_the_same() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4).T  # by columns
    vectors = np.ones((4, 3), np.float32)[::2]
    assert inner_products(matrix, vectors, np.array([[0, 3], [1, -1]], np.int32)).tolist() == [
        [12.0, 21.0],
        [15.0, -np.inf],
    ]


def test_a_product_has_one_inner_product_whichever_way_it_came() -> None:
    generator = np.random.default_rng(3)
    matrix = generator.normal(size=(500, 37)).astype(np.float32)
    vectors = generator.normal(size=(7, 37)).astype(np.float32)
    searched, inner_product = Scan(matrix, factorise(matrix, vectors), 20).nearest(vectors, 30, 60)
    assert inner_product.tolist() == inner_products(matrix, vectors, searched).tolist()
    assert inner_product[:1].tolist() == inner_products(matrix, vectors[:1], searched[:1]).tolist()


@pytest.mark.parametrize(
    ("spread", "tables", "pairs"),
    [
        (np.ones(12), 6, 6),  # what is not seen loses more than what shares a table
        (np.ones(8), 6, 2),
        (np.ones(8), 8, 0),
        (10.0 ** -np.arange(12), 6, 1),  # what lies behind loses next to nothing
        (np.array([100, 1, 1, 1, 1, 1]), 4, 2),
    ],
)
def test_the_dimensions_that_matter_least_share_tables(spread: np.ndarray, tables: int, pairs: int) -> None:
    columns = _columns(spread.astype(np.float32), tables)
    assert len(columns) == tables
    assert columns[columns >= 0].tolist() == list(range(tables + pairs))
    assert (columns[: tables - pairs] >= 0).sum() == tables - pairs


def test_a_scan_by_pairs_misses_less_than_one_that_does_not_see_the_rest() -> None:
    generator = np.random.default_rng(4)
    matrix = generator.normal(size=(4000, 64)).astype(np.float32)
    vectors = generator.normal(size=(400, 64)).astype(np.float32)
    factors = factorise(matrix, vectors)
    assert len(_columns((matrix @ factors.products).var(axis=0), 32)[0]) == 2
    truth = np.argsort(-vectors @ matrix.T, axis=1)[:, :20]
    found, _ = Scan(matrix, factors, 32).nearest(vectors, 20, 60)
    seen = vectors @ factors.users[:, :32] @ (matrix @ factors.products[:, :32]).T
    unseen = np.argsort(-seen, axis=1)[:, :60]
    by_pairs, by_half = (
        np.mean([len(np.intersect1d(*each)) for each in zip(truth, lists, strict=True)]) for lists in (found, unseen)
    )
    assert by_pairs > by_half + 2
