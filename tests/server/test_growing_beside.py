"""An engine that goes on answering while another one with more products has taken its place."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kg.extending import CatalogueChange, extended
from kg.tables import FACTS, PRODUCTS
from model.artifact import load_artifact
from model.joining import joined
from model.text import shared_encoder
from server.engine import Engine
from server.histories import Interaction, LiveHistories
from server.question import Question
from server.user_graph import with_compiled_users
from tests.server.shop import Shop

NOW_MS = 1_800_000_000_000


@pytest.fixture
def beside(shop: Shop) -> tuple[Engine, Engine]:
    """An engine, and the one that follows it with one more product."""
    artifact = load_artifact(shop.home / "artifacts" / shop.versions[0])
    artifact = replace(artifact, scorer=with_compiled_users(artifact.scorer, shop.home / "cache"))
    before = Engine.build(artifact, shop.snapshot, LiveHistories(shop.snapshot, 50), exclude_seen=True)
    row = {"product_id": "kettle", "title": "Steel kettle", "description": "", "brand": "Acme", "category": ["Things"]}
    products = pa.Table.from_pylist([row | {"price": None, "available": None, "attributes": []}], PRODUCTS)
    step = extended(shop.snapshot, CatalogueChange(products, pa.Table.from_pylist([], FACTS), ()))
    encode = shared_encoder(artifact.scorer.network.config.text).encode
    scorer, _ = joined(artifact.scorer, artifact.kernel, artifact.node_keys, None, step, encode)
    grown = replace(artifact, products=step.snapshot.products, scorer=scorer)
    return before, before.extended(grown, step.snapshot)


def test_what_is_done_with_a_new_product_does_not_disturb_who_does_not_know_it(beside: tuple[Engine, Engine]) -> None:
    before, after = beside
    questions = [Question(user_id="user-01", k=5), Question(user_id="user-02", k=5)]
    expected = before.answer(questions)
    new = len(before.index)
    before.histories.append("event-1", "user-01", Interaction(new, 0, NOW_MS, float("nan")))
    for engine in (before, after, before):
        first, second = engine.answer(questions)
        np.testing.assert_array_equal(second.product_index, expected[1].product_index)
        assert len(first.product_index) == 5
        assert new not in first.product_index
    assert new not in before.history(questions[0]).product_index
    assert after.history(questions[0]).product_index[-1] == new
    before.answer([Question(user_id="user-01", k=5, exclude_seen=False)])


def test_a_vector_that_lacks_what_was_done_with_a_new_product_is_not_taken_by_who_knows_it(
    beside: tuple[Engine, Engine],
) -> None:
    before, after = beside
    question = Question(user_id="user-01", k=5)
    before.histories.append("event-1", "user-01", Interaction(len(before.index), 0, NOW_MS, float("nan")))
    (without,) = before.answer([question])
    (found,) = after.answer([question])
    after._users.forget("user-01")
    (anew,) = after.answer([question])
    np.testing.assert_array_equal(found.score, anew.score)
    assert not np.array_equal(found.score, without.score)


def test_a_vector_that_was_made_with_more_products_is_not_taken_by_who_has_fewer(
    beside: tuple[Engine, Engine],
) -> None:
    before, after = beside
    question = Question(user_id="user-03", k=5)
    before.histories.append("event-1", "user-03", Interaction(1, 0, NOW_MS, float("nan")))
    after.answer([question])
    assert after.is_small(replace(question, candidates=("product-01",)))
    assert not before.is_small(replace(question, candidates=("product-01",)))
    before.answer([question])  # as it sees the user, which is good for both
    assert before.is_small(replace(question, candidates=("product-01",)))
    assert after.is_small(replace(question, candidates=("product-01",)))
