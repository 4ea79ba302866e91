"""Fitting a model: what is held out is nowhere in training, and joins afterwards."""

from pathlib import Path

import numpy as np
import pytest

from model.cold_splits import COLD
from model.hold_out import without_products
from model.pipeline import fit_model
from model.ranker import ModelRanker, rank
from model.splits import SplitConfig, make_split
from tests.model.small_shop import MODEL, TRAIN, small_shop

SPLIT = SplitConfig(protocol="cold-products", cold_share=0.15, cold_seed=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


def test_held_out_products_leave_the_snapshot_with_their_facts() -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SPLIT)
    assert split.held_out is not None
    smaller, part = without_products(snapshot, split, split.held_out)
    gone = [snapshot.products.id(index) for index in np.flatnonzero(split.held_out)]
    assert len(gone) == 6
    assert len(smaller.products) == len(snapshot.products) - len(gone)
    assert not set(gone) & set(smaller.products.array.to_pylist())
    for name, edges in smaller.facts.items():
        ends = np.concatenate([edges.head, edges.tail])
        assert ends.max(initial=0) < smaller.node_count
        before = snapshot.facts[name]
        touched = np.isin(before.head, np.flatnonzero(split.held_out)) | np.isin(
            before.tail, np.flatnonzero(split.held_out)
        )
        assert len(edges) == len(before) - touched.sum()
    brand = smaller.facts["HAS_BRAND"]
    for head, tail in zip(brand.head.tolist(), brand.tail.tolist(), strict=True):
        wanted = "Leaf" if smaller.products.id(head).startswith("tea") else "Bolt"
        assert smaller.nodes["id"][tail - len(smaller.products)].as_py() == wanted
    ids = [snapshot.products.id(index) for index in split.train.product_index.tolist()]
    assert [smaller.products.id(index) for index in part.train.product_index.tolist()] == ids
    assert len(part.validation.candidates) == len(smaller.products)


def test_products_that_training_never_saw_are_ranked_by_text_and_facts(cache: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SPLIT)
    trained = fit_model(snapshot, split, MODEL, TRAIN, cache)
    assert split.held_out is not None
    assert len(trained.model.matrix) == len(snapshot.products)
    assert trained.graph.product_count == len(snapshot.products) - split.held_out.sum()
    case = next(question.test for question in split.questions if question.name == COLD)
    ranked = rank(ModelRanker("m", trained.model), case, 10)
    names = np.array(snapshot.products.array.to_pylist())
    for row in range(len(case)):
        taste = names[case.truth(row)[0]].split("-")[0]
        cold = [name for name in names[split.held_out] if name.startswith(taste)]
        shown = names[ranked[row][ranked[row] >= 0]].tolist()
        # What is cold stands with its own kind, before anything of the other taste.
        assert set(cold) <= set(shown)
