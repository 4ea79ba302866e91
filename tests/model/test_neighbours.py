from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from kg.snapshot import Snapshot
from model.baselines import itemknn
from model.config import NeighbourConfig
from model.errors import ModelError
from model.neighbours import Neighbours, fit_neighbours
from tests.model.plain_data import plain_data
from tests.model.small_shop import HALF, small_shop


@pytest.fixture(scope="module")
def shop() -> Snapshot:
    return small_shop(extra_products=1)


def fitted(shop: Snapshot, config: NeighbourConfig) -> Neighbours:
    neighbours = fit_neighbours(shop, shop.histories, config, ())
    assert neighbours is not None
    return neighbours


@pytest.mark.parametrize("kind", ["cosine", "ease"])
def test_products_of_one_taste_are_neighbours(shop: Snapshot, kind: str) -> None:
    weights = fitted(shop, NeighbourConfig.model_validate({"kind": kind})).weights.tocoo()
    taste = np.array([name.startswith("tea") for name in shop.products.array.to_pylist()])
    assert weights.nnz > HALF
    assert (taste[weights.row] == taste[weights.col]).all()
    assert (weights.data > 0).all()
    assert (weights.row != weights.col).all()


@pytest.mark.parametrize("kind", ["cosine", "ease"])
def test_only_the_strongest_are_kept(shop: Snapshot, kind: str) -> None:
    whole = fitted(shop, NeighbourConfig.model_validate({"kind": kind, "kept": 1000})).weights.toarray()
    few = fitted(shop, NeighbourConfig.model_validate({"kind": kind, "kept": 2})).weights.toarray()
    assert ((few > 0).sum(axis=1) <= 2).all()
    np.testing.assert_array_equal(few[few > 0], whole[few > 0])
    np.testing.assert_allclose(np.sort(few, axis=1)[:, -2:], np.sort(whole, axis=1)[:, -2:])


def test_whole_cosines_score_as_itemknn_does(shop: Snapshot) -> None:
    histories, count = shop.histories, len(shop.products)
    now_ms = np.full(len(histories), shop.as_of_ms, np.int64)
    config = NeighbourConfig(kind="cosine", kept=1000, position_decay=0.5, half_life_days=3)
    ours = fitted(shop, config).scores(histories, now_ms).toarray()
    peer = itemknn.fit(plain_data(histories, count), itemknn.ItemKnnConfig(position_decay=0.5, half_life_days=3))
    theirs = peer.scores(histories, now_ms)
    had = np.zeros_like(ours, dtype=bool)
    had[histories.users_of_rows(), histories.product_index] = True
    bought = np.bincount(histories.product_index, minlength=count) > 0
    unseen = ~had & bought  # a product is no neighbour of its own here, and cold ones are popular there
    np.testing.assert_allclose(ours[unseen], theirs[unseen], rtol=1e-4, atol=1e-6)


def test_facts_make_neighbours_of_products_that_nobody_bought_together(shop: Snapshot) -> None:
    nobody = replace(shop, histories=shop.histories.where(np.zeros(len(shop.histories.product_index), np.bool_)))
    linked = fitted(nobody, NeighbourConfig(kind="ease", facts=2)).weights.toarray()
    first, second = (shop.products.index(name) for name in ("tea-00", "tea-01"))
    assert linked[first, second] > 0
    assert (linked > 0).sum() == 2
    alone = fit_neighbours(nobody, nobody.histories, NeighbourConfig(kind="ease", facts=2), ("BOUGHT_TOGETHER",))
    assert alone is not None
    assert not alone.weights.nnz


def test_neighbours_follow_their_products_into_another_catalogue() -> None:
    weights = sparse.csr_matrix(np.array([[0, 3, 0], [1, 0, 2], [0, 0, 0]], np.float32))
    moved = Neighbours(weights, NeighbourConfig(kind="ease")).moved(np.array([2, 0, -1]), 4)
    expected = np.zeros((4, 4), np.float32)
    expected[2, 0], expected[0, 2] = 3, 1
    np.testing.assert_array_equal(moved.weights.toarray(), expected)


def test_a_catalogue_too_large_for_a_dense_matrix_is_refused(shop: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.neighbours._MOST_PRODUCTS", 20)
    with pytest.raises(ModelError, match=r"model\.neighbours\.kind .*21 products") as refused:
        fit_neighbours(shop, shop.histories, NeighbourConfig(kind="ease"), ())
    assert "cosine" in str(refused.value)
