"""The shop's rules: what they do to answers, and how they reach every server."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from kg.config import GraphSettings
from kg.rules import Action, Rule, Target
from kg.store import Graph
from kgrank.client import Client
from kgrank.errors import InvalidRequestError, NotFoundError, ServerUnavailableError
from kgrank.v1 import rule_service_pb2
from kgrank.v1.common_pb2 import Filter, Mix, ScoreComponents
from server import selection
from server.rulebook import Effect, RuleBook, effect_of
from tests.server.command import CommandLine
from tests.server.running import Running, running
from tests.server.shop import Shop
from tests.waiting import until

PIN, BOOST, BURY, BLOCK = (
    rule_service_pb2.Rule.Action.Value(f"ACTION_{name}") for name in ("PIN", "BOOST", "BURY", "BLOCK")
)


def ids(results: "object") -> list[str]:
    return [result.product_id for result in results]  # type: ignore[attr-defined]


def sum_of(parts: ScoreComponents) -> float:
    return sum(getattr(parts, field.name) for field in parts.DESCRIPTOR.fields)


@pytest.fixture(scope="module")
def ruled(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without a graph, whose rule book the tests write themselves."""
    with running(Path(shutil.copytree(shop.home, tmp_path_factory.mktemp("ruled") / "home"))) as server:
        yield server


@pytest.fixture
def client(ruled: Running) -> Iterator[Client]:
    with Client(ruled.target) as connected:
        yield connected
    ruled.server._serving.rules.replace([])


@pytest.fixture
def book(ruled: Running) -> RuleBook:
    return ruled.server._serving.rules


def rule(action: Action, target: Target, name: str, **more: object) -> Rule:
    return Rule(f"{action}-{name}", action, target, name, **more)  # type: ignore[arg-type]


def test_blocked_products_are_in_no_answer(client: Client, book: RuleBook) -> None:
    best = ids(client.recommend("user-03", k=2, exclude_seen=False).results)
    book.replace([rule(Action.BLOCK, Target.PRODUCT, best[0]), rule(Action.BLOCK, Target.CATEGORY, "Things > Kind 2")])
    gone = {best[0], *(f"product-{number:02}" for number in range(2, 90, 7))}
    everything = [f"product-{number:02}" for number in range(90)]
    for answer in (
        client.recommend("user-03", k=90, exclude_seen=False),
        client.rank("user-03", everything),
        client.search("thing", "user-03", k=90),
        client.similar_products("product-30", k=90),
    ):
        assert answer.results
        assert not gone & set(ids(answer.results))
    # Why a product is not there can still be asked.
    assert client.explain("user-03", best[0]).result.product_id == best[0]


def test_a_boost_lifts_a_brand_and_shows_in_the_components(client: Client, book: RuleBook) -> None:
    before = client.recommend("user-00", k=90, exclude_seen=False).results
    book.replace([rule(Action.BOOST, Target.BRAND, "Bolt", strength=3.0)])
    after = client.recommend("user-00", k=90, exclude_seen=False).results
    assert sorted(ids(before)) == sorted(ids(after))
    lifts = {round(result.components.rule, 4) for result in after if int(result.product_id[8:]) % 3 == 1}
    assert len(lifts) == 1
    assert lifts.pop() > 0
    assert all(result.components.rule == 0 for result in after if int(result.product_id[8:]) % 3 != 1)
    scores = [result.score for result in after]
    assert scores == sorted(scores, reverse=True)
    for result in after:
        assert sum_of(result.components) == pytest.approx(result.score, abs=1e-3)
    top = sum(int(result.product_id[8:]) % 3 == 1 for result in after[:10])
    assert top > sum(int(result.product_id[8:]) % 3 == 1 for result in before[:10])
    # Any length of the list is its beginning; an explanation and a ranking say the same.
    assert ids(client.recommend("user-00", k=7, exclude_seen=False).results) == ids(after[:7])
    assert ids(client.rank("user-00", ids(after)).results) == ids(after)
    explained = client.explain("user-00", after[4].product_id)
    assert explained.rank == 5
    assert explained.result.score == pytest.approx(after[4].score, abs=1e-3)


def test_likeness_is_not_boosted(client: Client, book: RuleBook) -> None:
    before = client.similar_products("product-30", k=90).results
    book.replace(
        [
            rule(Action.BOOST, Target.BRAND, "Bolt", strength=10.0),
            rule(Action.BURY, Target.PRODUCT, before[0].product_id, strength=10.0),
        ]
    )
    assert client.similar_products("product-30", k=90).results == before


def test_rules_add_up_and_a_burial_lowers(client: Client, book: RuleBook) -> None:
    best = ids(client.recommend("user-02", k=1, exclude_seen=False).results)[0]
    book.replace([rule(Action.BURY, Target.PRODUCT, best, strength=10.0)])
    lowered = client.recommend("user-02", k=90, exclude_seen=False).results
    assert ids(lowered)[0] != best
    assert next(result for result in lowered if result.product_id == best).components.rule < 0
    more = rule(Action.BOOST, Target.CATEGORY, "Things", strength=10.0)
    book.replace([rule(Action.BURY, Target.PRODUCT, best, strength=10.0), more])
    both = client.recommend("user-02", k=90, exclude_seen=False).results
    assert next(result for result in both if result.product_id == best).components.rule == 0


def test_a_pin_stands_at_its_place_where_the_filters_let_it_through(client: Client, book: RuleBook) -> None:
    last = ids(client.recommend("user-04", k=90, exclude_seen=False).results)[-1]
    book.replace([rule(Action.PIN, Target.PRODUCT, last, position=3)])
    answer = client.recommend("user-04", k=10, exclude_seen=False)
    assert ids(answer.results)[2] == last
    assert answer.results[2].components.rule > 0
    for result in answer.results:
        assert sum_of(result.components) == pytest.approx(result.score, abs=1e-3)
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    mixed = client.recommend("user-04", k=10, exclude_seen=False, mix=Mix(max_per_brand=2, diversity=0.3))
    assert ids(mixed.results)[2] == last
    other = next(brand for number, brand in enumerate(("Acme", "Bolt", "Cora")) if int(last[8:]) % 3 != number)
    assert last not in ids(client.recommend("user-04", k=30, filter=Filter(brands=[other])).results)
    assert last not in ids(client.recommend("user-04", k=90, exclude_product_ids=[last]).results)
    assert ids(client.search("thing", "user-04", k=5).results)[2] == last
    ranked = client.rank("user-04", [f"product-{number:02}" for number in range(90)], k=5)
    assert last not in ids(ranked.results)
    assert last not in ids(client.search("thing", k=5, exclude_product_ids=[last]).results)


def test_a_pin_of_a_brand_or_category_puts_the_best_of_it_there(client: Client, book: RuleBook) -> None:
    everything = ids(client.recommend("user-04", k=90, exclude_seen=False).results)
    brand = ("Acme", "Bolt", "Cora")[int(everything[-1][8:]) % 3]  # of the last one: another than the first ones'
    best, second = [each for each in everything if int(each[8:]) % 3 == int(everything[-1][8:]) % 3][:2]
    kind = next(each for each in everything if int(each[8:]) % 7 == 3 and each != best)
    book.replace(
        [
            Rule("a", Action.PIN, Target.BRAND, brand, position=1),
            Rule("b", Action.PIN, Target.BRAND, brand, position=3),
            Rule("c", Action.PIN, Target.CATEGORY, "Things > Kind 3", position=5),
        ]
    )
    answer = client.recommend("user-04", k=10, exclude_seen=False)
    assert (ids(answer.results)[0], ids(answer.results)[2]) == (best, second)
    assert int(ids(answer.results)[4][8:]) % 7 == 3
    assert kind in ids(answer.results)
    # A product that has a pin of its own is not taken for its brand's.
    book.replace([rule(Action.PIN, Target.BRAND, brand), Rule("z", Action.PIN, Target.PRODUCT, best, position=4)])
    answer = client.recommend("user-04", k=10, exclude_seen=False)
    assert (ids(answer.results)[0], ids(answer.results)[3]) == (second, best)


def test_a_rule_holds_within_its_time(client: Client, book: RuleBook) -> None:
    now_ms = time.time_ns() // 1_000_000
    best = ids(client.recommend("user-06", k=1).results)[0]
    past = rule(Action.BLOCK, Target.PRODUCT, best, end_ms=now_ms)
    future = rule(Action.BLOCK, Target.PRODUCT, best, start_ms=now_ms + 3_600_000)
    present = rule(Action.BLOCK, Target.PRODUCT, best, start_ms=now_ms - 1, end_ms=now_ms + 3_600_000)
    for rules, there in (([past, future], True), ([past, future, present], False), ([], True)):
        book.replace(rules)
        assert (best in ids(client.recommend("user-06", k=90).results)) == there


def test_many_different_rules_rank_like_few(client: Client, book: RuleBook) -> None:
    # More levels than are searched one by one.
    rules = [
        rule(Action.BOOST, Target.PRODUCT, f"product-{number:02}", strength=number / 10) for number in range(1, 90, 4)
    ]
    book.replace(rules)
    everything = client.rank("user-08", [f"product-{number:02}" for number in range(90)])
    listed = client.recommend("user-08", k=20, exclude_seen=False)
    assert ids(listed.results) == ids(everything.results)[:20]


@pytest.mark.neo4j
def test_a_rule_holds_between_the_moments_that_the_command_names(
    home: Path, graph: Graph, kgrank: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home, lambda: nullcontext(graph)) as server:
        until(lambda: server.server.graph_open)
        monkeypatch.setenv("KGRANK_TARGET", server.target)
        for given, meant in {
            "20300131": "2030-01-31T00:00:00Z",
            "2030-01-31T18:00:00+09:00": "2030-01-31T09:00:00Z",
            "2030-01-31 18:00": "2030-01-31T18:00:00Z",
        }.items():
            named = ("--from", "2029-12-31", "--until", given)
            stored = kgrank(home, "rules", "set", "sale", "pin", "--product", "product-03", *named, "--json")
            rule = json.loads(stored.out)
            assert (rule["start_time"], rule["end_time"]) == ("2029-12-31T00:00:00Z", meant)


@pytest.mark.neo4j
def test_rules_are_stored_in_the_graph_and_followed_by_every_server(
    home: Path, graph: Graph, kgrank: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out_in: set[str] = set()

    def noted(*given: Any) -> Effect:
        worked_out_in.add(threading.current_thread().name.partition("_")[0])
        return effect_of(*given)

    monkeypatch.setattr(selection, "effect_of", noted)  # the real one, and in which threads it runs
    other_home = home.with_name("other-home")
    other_home.mkdir()
    for part in ("artifacts", "snapshots", "cache"):
        (other_home / part).symlink_to(home / part)
    with (
        running(home, lambda: nullcontext(graph)) as server,
        running(other_home, lambda: nullcontext(graph)) as other,
        Client(server.target) as client,
        Client(other.target) as elsewhere,
    ):
        until(lambda: server.server.graph_open and other.server.graph_open)
        best = ids(client.recommend("user-01", k=1).results)[0]
        stored = client.upsert_rule(rule_service_pb2.Rule(rule_id="no-best", action=BLOCK, product_id=best))
        assert stored == rule_service_pb2.Rule(rule_id="no-best", action=BLOCK, product_id=best)
        for each in (client, elsewhere):
            until(lambda each=each: best not in ids(each.recommend("user-01", k=1).results))
        boost = rule_service_pb2.Rule(rule_id="bolt", action=BOOST, brand="Bolt", strength=2.5)
        boost.end_time.FromSeconds(4_000_000_000)
        client.upsert_rule(boost)
        client.upsert_rule(rule_service_pb2.Rule(rule_id="pin", action=PIN, product_id="product-07", position=2))
        first = elsewhere.list_rules(page_size=2)
        rest = elsewhere.list_rules(page_token=first.next_page_token)
        assert [each.rule_id for each in (*first.rules, *rest.rules)] == ["bolt", "no-best", "pin"]
        assert first.rules[0] == boost
        assert not rest.next_page_token
        until(lambda: ids(elsewhere.recommend("user-01", k=3).results)[1] == "product-07")
        client.delete_rule("no-best")
        client.delete_rule("pin")
        until(lambda: best in ids(elsewhere.recommend("user-01", k=90).results))
        with pytest.raises(NotFoundError):
            client.delete_rule("pin")
        monkeypatch.setenv("KGRANK_TARGET", other.target)
        assert kgrank(home, "rules", "set", "low", "bury", "--product", "product-03", "--strength", "0.5").code == 0
        assert [each["rule_id"] for each in json.loads(kgrank(home, "rules", "list", "--json").out)] == ["bolt", "low"]
        assert "product_id: product-03" in kgrank(home, "rules", "list").out
        assert json.loads(kgrank(home, "rules", "remove", "low", "--json").out) == {"removed": "low"}
        # Rules are the shop's, not a snapshot's: another change of the same one is the one that holds.
        client.upsert_rule(rule_service_pb2.Rule(rule_id="bolt", action=BLOCK, brand="Bolt"))
        for each in (client, elsewhere):
            until(lambda each=each: all(int(no[8:]) % 3 != 1 for no in ids(each.recommend("user-01", k=9).results)))
        until(lambda: '"block"' in (home / "rules.json").read_text(encoding="utf-8"))
    assert worked_out_in == {"asyncio"}  # beside the event loop: no call waits for it
    # A server that starts while the graph is away goes on with the rules that it knew.
    nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
    with (
        running(home, lambda: Graph.connect(nowhere, home / "graph")) as server,
        Client(server.target, timeout_s=60) as client,
    ):
        assert all(int(each[8:]) % 3 != 1 for each in ids(client.recommend("user-01", k=9).results))
        with pytest.raises(ServerUnavailableError):
            client.list_rules()


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (rule_service_pb2.Rule(), {"rule.rule_id", "rule.action", "rule.target"}),
        (rule_service_pb2.Rule(rule_id="a", action=PIN, brand=""), {"rule.brand"}),
        (rule_service_pb2.Rule(rule_id="a", action=PIN, product_id="p", position=0), {"rule.position"}),
        (rule_service_pb2.Rule(rule_id="a", action=PIN, product_id="p", strength=1), {"rule.strength"}),
        (rule_service_pb2.Rule(rule_id="a", action=BOOST, category="c", strength=11), {"rule.strength"}),
        (
            rule_service_pb2.Rule(rule_id="a", action=BURY, category="", strength=float("nan")),
            {"rule.category", "rule.strength"},
        ),
        (rule_service_pb2.Rule(rule_id="a", action=BLOCK, brand="b", position=2), {"rule.position"}),
        (
            rule_service_pb2.Rule(rule_id="a\n", action=99, product_id="x" * 300),
            {"rule.rule_id", "rule.action", "rule.product_id"},
        ),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused(
    client: Client, given: rule_service_pb2.Rule, fields: set[str]
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_rule(given)
    assert {violation.field for violation in refused.value.violations} == fields


def test_without_a_graph_rules_can_not_be_written(client: Client, ruled: Running) -> None:
    with Client(ruled.target, timeout_s=60) as patient, pytest.raises(ServerUnavailableError):
        patient.upsert_rule(rule_service_pb2.Rule(rule_id="a", action=BLOCK, brand="Bolt"))
