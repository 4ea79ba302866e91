"""What a request tells of the moment: its place in time, and what it does to the answer."""

import math
import time

import numpy as np
import pytest

from kg.tables import CODES, InteractionType
from kgrank.client import Client
from kgrank.v1.common_pb2 import Context
from model.artifact import Artifact, load_artifact
from server.engine import STALE_MS, Engine
from server.histories import Interaction, LiveHistories
from server.question import ContextEvent, Question, UserState
from tests.server.shop import PRODUCT_COUNT, Shop

VIEW, CART = CODES[InteractionType.VIEW], CODES[InteractionType.ADD_TO_CART]
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def artifact(shop: Shop) -> Artifact:
    return load_artifact(shop.home / "artifacts" / shop.versions[0])


@pytest.fixture
def engine(shop: Shop, artifact: Artifact) -> Engine:
    """An engine over the shop's snapshot, which is years old, without a search."""
    return Engine.build(artifact, shop.snapshot, LiveHistories(shop.snapshot, 1000), exclude_seen=True)


def latest(engine: Engine, question: Question) -> list[str]:
    """Return the products of the history that a question is answered from, oldest first."""
    return [engine.product_ids[index] for index in engine.history(question).product_index]


@pytest.mark.parametrize("ahead_ms", [-MINUTE_MS, 4 * MINUTE_MS])
def test_seeds_come_after_what_was_written_since_the_snapshot(engine: Engine, ahead_ms: int) -> None:
    written_ms = time.time_ns() // 1_000_000 + ahead_ms
    assert engine.now_ms() < written_ms - STALE_MS
    engine.histories.append("e", "user-03", Interaction(10, CART, written_ms, math.nan))
    seeded = Question("user-03", 5, seeds=("product-20", "product-21"))
    assert latest(engine, seeded)[-3:] == ["product-10", "product-20", "product-21"]
    moved_ms = engine.history(seeded).at_ms[-3:]
    assert len(set(moved_ms.tolist())) == 1
    assert abs(int(moved_ms[0]) - engine.now_ms()) < MINUTE_MS
    untimed = Question("user-03", 5, events=(ContextEvent("product-30", CART, None, math.nan),), seeds=("product-20",))
    assert latest(engine, untimed)[-3:] == ["product-10", "product-30", "product-20"]


@pytest.mark.parametrize("told", [False, True])
def test_an_event_by_the_clock_ages_nothing_of_a_snapshot_of_the_past(
    shop: Shop, artifact: Artifact, told: bool
) -> None:
    lists = []
    for by_the_clock in (True, False):
        engine = Engine.build(artifact, shop.snapshot, LiveHistories(shop.snapshot, 1000), exclude_seen=False)
        at_ms = time.time_ns() // 1_000_000 if by_the_clock else engine.now_ms()
        product = int(engine.histories.latest("user-03", PRODUCT_COUNT).product_index[-1])
        events = [ContextEvent(f"product-{product:02}", VIEW, at_ms, math.nan)] if told else []
        if not told:
            engine.histories.append("e", "user-03", Interaction(product, VIEW, at_ms, math.nan))
            assert engine.histories.last_ms("user-03") == at_ms
        (ranking,) = engine.answer(
            [Question("user-03", None, candidates=tuple(engine.product_ids), events=tuple(events))]
        )
        by_product = np.argsort(ranking.product_index)
        assert ranking.parts["history"].any()
        lists.append(np.stack([ranking.parts["history"], ranking.score])[:, by_product])
    assert np.abs(lists[0] - lists[1]).max() < 1e-4


def test_seeds_come_after_the_events_of_the_same_context(engine: Engine) -> None:
    now_ms = time.time_ns() // 1_000_000
    event = ContextEvent("product-10", CART, now_ms, math.nan)
    assert latest(engine, Question("", 5, events=(event,), seeds=("product-20",))) == ["product-10", "product-20"]
    # What the catalogue does not have moves nothing.
    ghost = ContextEvent("ghost", CART, now_ms, math.nan)
    history = engine.history(Question("", 5, events=(ghost,), seeds=("product-20",)))
    assert abs(int(history.at_ms[0]) - engine.now_ms()) < MINUTE_MS


def test_a_seed_given_twice_is_one_look(engine: Engine) -> None:
    seeds = ("product-20", "product-21", "product-20")
    assert latest(engine, Question("", 5, seeds=seeds)) == ["product-20", "product-21"]


def test_a_seed_that_may_be_ranked_is_ranked(client: Client) -> None:
    context = Context(seed_product_ids=["product-20"])
    for exclude_seen in (None, True, False):
        answer = client.recommend(
            "a visitor",
            context=context,
            allowed_product_ids=["product-20", "product-21"],
            exclude_seen=exclude_seen,
        )
        assert {result.product_id for result in answer.results} == {"product-20", "product-21"}


def test_a_query_that_nobody_answers_is_no_context(engine: Engine) -> None:
    assert engine.answer([Question("", 3, query="green tea")])[0].state is UserState.COLD
    assert engine.answer([Question("", 3, categories=("Things",))])[0].state is UserState.CONTEXT_ONLY


def test_a_missing_id_is_named_once_whatever_is_asked(client: Client) -> None:
    answer = client.similar_products(
        "product-11", allowed_product_ids=["zz", "product-05"], exclude_product_ids=["zz", "zz"]
    )
    assert list(answer.missing_ids) == ["zz"]
