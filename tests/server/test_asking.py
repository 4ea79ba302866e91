"""`kgrank recommend` and `kgrank explain` against a real server."""

import json

import pytest

from kgrank.v1.common_pb2 import Result, ScoreComponents
from server.cli.asking import component_names
from tests.server.command import CommandLine, kgrank
from tests.server.shop import Shop

__all__ = ["kgrank"]


@pytest.fixture(autouse=True)
def _target(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_TARGET", served)


def test_recommend_prints_a_table(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "recommend", "user-01", "--k", "3")
    assert done.code == 0
    assert "For user-01 (warm)" in done.out
    assert "Thing" in done.out


def test_recommend_prints_titles_with_reasons(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "recommend", "user-01", "--k", "3", "--reasons")
    assert done.code == 0
    assert "  1. Thing " in done.out
    assert "     · " in done.out


def test_a_table_has_every_component_that_it_needs_to_add_up() -> None:
    plain = Result(score=3, components=ScoreComponents(graph=1, text=2))
    pinned = Result(score=1, components=ScoreComponents(graph=5, rule=-4))
    assert component_names([plain]) == ["graph", "text"]
    assert component_names([plain, pinned]) == ["graph", "text", "rule"]
    assert component_names([]) == []


def test_recommend_prints_the_contract_s_message_as_json(kgrank: CommandLine, shop: Shop) -> None:
    answer = json.loads(kgrank(shop.home, "recommend", "user-01", "--k", "3", "--seen", "--json").out)
    assert len(answer["results"]) == 3
    assert answer["user_state"] == "USER_STATE_WARM"
    model = {"graph", "text", "history", "neighbours", "popularity", "newcomer"}
    assert set(answer["results"][0]["components"]) == model | {"query", "rule", "diversity", "exploration"}


def test_search_prints_what_it_understood(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "search", "thnig 42", "--user", "user-01", "--brand", "Acme", "--k", "2")
    assert done.code == 0
    assert "'thnig 42', understood as 'thing 42' for user-01" in done.out
    assert "product-42" in done.out
    answer = json.loads(
        kgrank(shop.home, "search", "thing", "--category", "Things > Kind 4", "--below", "11", "--json").out
    )
    assert {result["product_id"] for result in answer["results"]} == {"product-04", "product-11"}
    assert "     · " in kgrank(shop.home, "search", "thing", "--user", "user-01", "--reasons").out


def test_rules_need_a_graph_and_say_so(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "rules", "set", "sale", "boost", "--brand", "Acme", "--until", "2030-01-31")
    assert done.code == 1
    assert "without a graph" in done.err
    assert kgrank(shop.home, "rules", "set", "sale", "lift", "--brand", "Acme").code == 2


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--k", ("recommend", "user-01", "--k", "99999999999")),
        ("--k", ("search", "thing", "--k", "99999999999")),
        ("--position", ("rules", "set", "hero", "pin", "--product", "product-04", "--position", "99999999999")),
        ("--until", ("rules", "set", "hero", "pin", "--product", "product-04", "--until", "2030")),
        ("--from", ("rules", "set", "hero", "pin", "--product", "product-04", "--from", "0001-01-01T00:00+09:00")),
        ("--days", ("user", "profile", "user-01", "--days", "1e300")),
        ("--days", ("user", "profile", "user-01", "--days", "nan")),
    ],
)
def test_a_number_or_moment_that_no_server_takes_is_a_mistake(
    kgrank: CommandLine, shop: Shop, option: str, arguments: tuple[str, ...]
) -> None:
    done = kgrank(shop.home, *arguments)
    assert (done.code, option in done.err) == (2, True)
    assert "Traceback" not in done.err


def test_the_longest_time_can_be_asked_for(kgrank: CommandLine, shop: Shop) -> None:
    assert kgrank(shop.home, "user", "profile", "user-10", "--days", "3652500").code == 0


def test_explain_prints_components_and_paths(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "explain", "user-01", "product-04")
    assert done.code == 0
    assert "Thing 4 for user-01: place" in done.out
    answer = json.loads(kgrank(shop.home, "explain", "user-01", "product-04", "--json").out)
    assert answer["result"]["product_id"] == "product-04"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain", "user-01", "ghost"), "NOT_FOUND"),
        (("recommend", "user-01", "--k", "5000"), "k is 5000; it must be from 1 to 1000"),
        (("recommend", "user-01", "--target", "127.0.0.1:1"), "does not answer"),
    ],
)
def test_a_refusal_is_one_sentence(kgrank: CommandLine, shop: Shop, arguments: tuple[str, ...], said: str) -> None:
    done = kgrank(shop.home, *arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err
