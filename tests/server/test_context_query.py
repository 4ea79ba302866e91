"""A context's query that hundreds of products are near in meaning, and of which none has a word."""

import shutil

import numpy as np
import pytest

from kg.freeze import freeze
from model.artifact import load_artifact
from server.engine import Engine
from server.histories import LiveHistories
from server.question import Question
from server.search.finder import BEST_BY_MEANING, Finder
from tests.server.shop import Shop, tables, train_shortly

USER, COUNT, QUERY = "user-07", 4 * BEST_BY_MEANING, "widget"


@pytest.fixture(scope="module")
def engine(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Serves the shop with more products than are looked for by meaning."""
    home = tmp_path_factory.mktemp("near")
    shutil.copytree(shop.home / "cache", home / "cache")
    snapshot = freeze(tables(COUNT))
    artifact = load_artifact(home / "artifacts" / train_shortly(home / "artifacts", snapshot, seed=1))
    finder = Finder.build(artifact, snapshot, home / "cache")
    return Engine.build(artifact, snapshot, LiveHistories(snapshot, 100), exclude_seen=False, finder=finder)


@pytest.fixture(scope="module")
def ranked(engine: Engine) -> list[int]:
    """All products in their order for the user and the query."""
    everything = Question(USER, None, query=QUERY, candidates=tuple(engine.product_ids))
    ranking = engine.answer([everything])[0]
    near = np.count_nonzero(ranking.parts["query"])
    assert near > BEST_BY_MEANING
    assert not len(engine.selection.finder.words.find(QUERY, COUNT)[0])  # type: ignore[union-attr]  # it has one
    return [int(index) for index in ranking.product_index]


@pytest.mark.parametrize("k", [1, 5, 40, COUNT])
def test_a_short_list_is_the_beginning_of_the_whole_order(engine: Engine, ranked: list[int], k: int) -> None:
    assert engine.answer([Question(USER, k, query=QUERY)])[0].product_index.tolist() == ranked[:k]


@pytest.mark.parametrize("place", [1, 2, 40, 150, 300, COUNT])
def test_the_place_of_an_explained_product_is_its_place_among_all(
    engine: Engine, ranked: list[int], place: int
) -> None:
    product_index = ranked[place - 1]
    product_id = engine.product_ids[product_index]
    question = Question(USER, 1, query=QUERY, candidates=(product_id,), by_rules=False)
    assert engine.place(question, product_index) == place
