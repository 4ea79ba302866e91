"""Answers are given again only where they would be worked out the same."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kg.rules import Action, Rule, Target
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.v1 import common_pb2
from kgrank.v1.common_pb2 import Context, Filter
from kgrank.v1.ranking_service_pb2 import RecommendResponse
from model.artifact import load_artifact
from server.engine import Engine
from server.histories import Interaction, LiveHistories
from server.kept_answers import KEPT_FOR_S, KeptAnswers
from server.question import Filter as Only
from server.question import Question, UserState
from tests.server.running import Running, running
from tests.server.shop import Shop, tables
from tests.server.test_watch import values
from tests.waiting import until


@contextmanager
def watched(home: Path, **settings: object) -> Iterator[tuple[Running, Client]]:
    with running(home, watch={"metrics_port": 0}, **settings) as server, Client(server.target) as client:
        yield server, client


def counted(server: Running) -> tuple[int, int, int]:
    """Return how many questions were answered again, worked out, and passed over."""
    port = server.server.metrics_port
    assert port is not None
    told = values(port)
    hit, miss, passed = (int(told.get(("kgrank_kept_answers_total", each), 0)) for each in ("hit", "miss", "passed"))
    return hit, miss, passed


def plain(answer: RecommendResponse) -> RecommendResponse:
    """Return an answer without what is its own."""
    kept = RecommendResponse()
    kept.CopyFrom(answer)
    kept.attribution_token = ""
    return kept


def test_the_same_question_has_the_same_answer_with_a_token_of_its_own(home: Path) -> None:
    with watched(home) as (server, client):
        first, again = (client.recommend("user-01", k=5, details=True, reasons=True) for _ in range(2))
        assert counted(server) == (1, 1, 0)
        assert first.results
        assert plain(first) == plain(again)
        assert first.attribution_token != again.attribution_token
        assert again.attribution_token.startswith(again.model_version)
        client.recommend("user-01", k=5)
        client.recommend("user-01", k=6, details=True, reasons=True)
        client.rank("user-01", ["product-01", "product-02"])
        assert counted(server) == (1, 4, 0)
        client.rank("user-01", ["product-01", "product-02"])
        assert counted(server) == (2, 4, 0)
        told = values(server.server.metrics_port or 0)
        assert told["kgrank_answers_total", "warm"] == 6


def test_an_event_of_the_user_and_only_that_makes_another_answer(home: Path) -> None:
    with watched(home) as (server, client):
        for user in ("user-01", "user-02"):
            client.recommend(user, k=90)
        client.write_event(event("user-01", "product-77", event_id="e-1"))
        changed = client.recommend("user-01", k=90)
        assert "product-77" not in [each.product_id for each in changed.results]
        client.recommend("user-02", k=90)
        assert counted(server) == (1, 3, 0)


def test_strangers_share_an_answer_until_they_are_none(home: Path) -> None:
    with watched(home) as (server, client):
        answers = [client.recommend(user, k=9) for user in ("stranger-1", "stranger-2", "")]
        assert counted(server) == (2, 1, 0)
        assert len({plain(each).SerializeToString() for each in answers}) == 1
        client.write_event(event("stranger-1", "product-05", event_id="e-1"))
        assert client.recommend("stranger-1", k=9).user_state == common_pb2.USER_STATE_FEW_EVENTS
        assert plain(client.recommend("stranger-2", k=9)) == plain(answers[0])


def test_what_depends_on_the_moment_is_worked_out(home: Path) -> None:
    seeds = Context(seed_product_ids=["product-03"])
    with watched(home) as (server, client):
        for _ in range(2):
            client.recommend("user-01", k=5, context=seeds)
        assert counted(server) == (0, 0, 2)
        for _ in range(2):
            client.recommend("", k=5, context=seeds)
        assert counted(server) == (1, 1, 2)


def test_another_model_and_rules_make_other_answers(home: Path, shop: Shop) -> None:
    with watched(home) as (server, client):
        best = client.recommend("user-01", k=1).results[0].product_id
        server.server._serving.rules.replace([Rule("r", Action.BLOCK, Target.PRODUCT, best)])
        assert client.recommend("user-01", k=1).results[0].product_id != best
        server.server._serving.rules.replace([])
        assert client.recommend("user-01", k=1).results[0].product_id == best
        client.activate_model(f"models/{shop.versions[0]}")
        assert client.recommend("user-01", k=1).model_version == shop.versions[0]


@pytest.mark.neo4j
def test_whoever_is_erased_is_in_no_answer(home: Path, graph: Graph) -> None:
    graph.load(tables())
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        until(lambda: server.server.graph_open)
        assert client.recommend("user-07", k=5).user_state == common_pb2.USER_STATE_WARM
        assert client.recommend("user-07", k=5).user_state == common_pb2.USER_STATE_WARM
        client.erase_user("user-07")
        until(lambda: client.recommend("user-07", k=5).user_state == common_pb2.USER_STATE_COLD)


def test_with_kept_answers_all_is_as_without(home: Path) -> None:
    twin = Path(shutil.copytree(home, home.with_name("twin")))
    generator = np.random.default_rng(3)
    with watched(home) as (server, client), running(twin, kept_answers_mib=0) as other, Client(other.target) as without:
        for number in range(150):
            user = f"user-{generator.integers(4):02}" if generator.random() < 0.7 else f"new-{generator.integers(3)}"
            if generator.random() < 0.15:
                told = event(user, f"product-{generator.integers(90):02}", event_id=f"e-{number}")
                for each in (client, without):
                    each.write_event(told)
            only = Filter(brands=["Acme"]) if generator.random() < 0.3 else None
            one, two = (each.recommend(user, k=7, filter=only) for each in (client, without))
            assert [each.product_id for each in one.results] == [each.product_id for each in two.results]
            assert [each.score for each in one.results] == pytest.approx([each.score for each in two.results], rel=1e-4)
            assert one.user_state == two.user_state
        hits, misses, _ = counted(server)
        assert hits + misses == 150
        assert hits > 50


class Clock:
    """A moment that a test moves."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(scope="module")
def engine(shop: Shop) -> Engine:
    histories = LiveHistories(shop.snapshot, 100)
    artifact = load_artifact(shop.home / "artifacts" / shop.versions[0])
    return Engine.build(artifact, shop.snapshot, histories, exclude_seen=True)


def test_an_answer_is_kept_for_a_minute(engine: Engine) -> None:
    clock = Clock()
    kept = KeptAnswers(1 << 20, clock_s=clock)
    question = Question("user-01", 5)
    kept.put(kept.place(engine, question, "how"), b"answer", UserState.WARM)
    clock.s = KEPT_FOR_S - 1
    assert kept.get(kept.place(engine, question, "how")) == b"answer"
    assert kept.get(kept.place(engine, question, "otherwise")) is None
    clock.s = KEPT_FOR_S
    assert kept.get(kept.place(engine, question, "how")) is None


def test_the_least_lately_asked_for_goes_where_memory_is_short(engine: Engine) -> None:
    kept = KeptAnswers(10_000)
    for number in (1, 2, 3, 1, 4):
        place = kept.place(engine, Question(f"user-{number:02}", 5), "how")
        if kept.get(place) is None:
            kept.put(place, b"x" * 1_000, UserState.WARM)
    there = [kept.get(kept.place(engine, Question(f"user-{number:02}", 5), "how")) for number in (1, 2, 3, 4)]
    assert [each is not None for each in there] == [True, False, True, True]


def test_what_a_question_names_counts_as_memory_too(engine: Engine) -> None:
    most, heard = 1 << 20, list[str]()
    kept = KeptAnswers(most, lambda outcome, state: heard.append(outcome))
    questions = [Question("", 5, exclude=tuple(f"{number}-{each:0500}" for each in range(100))) for number in range(60)]
    for question in questions:
        kept.put(kept.place(engine, question, "how"), b"answer", UserState.COLD)
    left = [each for each in questions if kept.get(kept.place(engine, each, "how")) is not None]
    assert 0 < sum(sys.getsizeof(name) for each in left for name in each.exclude) < most
    assert "passed" not in heard


@pytest.mark.parametrize(
    "question",
    [
        Question("", 5, filter=Only(brands=tuple(f"brand-{each}" for each in range(1000)))),
        Question("", 5, filter=Only(categories=("x" * 5000,))),
        Question("", 5, filter=Only(attributes=tuple((f"key-{each}", ("x" * 200,)) for each in range(50)))),
        Question("", 5, categories=tuple(f"Things > {each}" for each in range(1000))),
        Question("", 5, seeds=tuple(f"product-{each}" for each in range(1000))),
    ],
    ids=["brands", "categories", "attributes", "context", "seeds"],
)
def test_a_question_that_names_very_much_is_passed_over(engine: Engine, question: Question) -> None:
    heard: list[str] = []
    kept = KeptAnswers(1 << 20, lambda outcome, state: heard.append(outcome))
    assert kept.place(engine, question, "how") is None
    assert heard == ["passed"]
    few = replace(
        question,
        filter=Only(question.filter.categories[:0], question.filter.brands[:9], None, question.filter.attributes[:9]),
        categories=question.categories[:9],
        seeds=question.seeds[:9],
    )
    assert kept.place(engine, few, "how") is not None


def test_a_stranger_s_event_that_comes_while_the_answer_is_made_is_in_no_stranger_s_answer(engine: Engine) -> None:
    kept = KeptAnswers(1 << 20)
    place = kept.place(engine, Question("stranger", 5), "how")
    engine.histories.append("event", "stranger", Interaction(3, 1, 1_700_000_000_000, float("nan")))
    kept.put(place, b"tells of the event", UserState.FEW_EVENTS)
    assert kept.get(kept.place(engine, Question("another", 5), "how")) is None


def test_an_answer_that_was_being_made_when_somebody_was_forgotten_is_not_kept(engine: Engine) -> None:
    kept = KeptAnswers(1 << 20)
    question = Question("user-01", 5)
    place = kept.place(engine, question, "how")
    kept.forget("user-02")
    kept.put(place, b"tells of user-02", UserState.WARM)
    assert kept.get(kept.place(engine, question, "how")) is None
