"""What is read of the graph while others remove it."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from kg import catalogue, rules
from kg.erasure import erase_user, stored_of
from kg.store import Graph
from kg.whole_rows import whole_rows
from tests.kg.small_tables import SMALL, event, tables
from tests.waiting import until

PRODUCT = catalogue.Product("lamp-1", "Lamp", "It shines.", "Bright", ("Home",), 9.5, True, (("colour", "red"),))
A_PRODUCT = SMALL.products["product_id"][0].as_py()
RULE = rules.Rule("sale-1", rules.Action.BOOST, rules.Target.BRAND, "Bright")


def test_a_row_of_something_just_removed_is_read_again() -> None:
    answers = [[["a", 1, None], ["b", None, None]], [["a", 1, None]]]
    assert whole_rows(lambda: answers.pop(0), range(2)) == [["a", 1, None]]
    assert answers == []


def test_a_row_that_stays_in_parts_is_left_out() -> None:
    assert whole_rows(lambda: [["a", 1], ["b", None]], range(2)) == [["a", 1]]


def test_lists_that_belong_together_have_one_length() -> None:
    answers = [[["a", ["k", "l"], ["v"]]], [["a", ["k"], ["v"]]]]
    assert whole_rows(lambda: answers.pop(0), range(3), alike=(1, 2)) == [["a", ["k"], ["v"]]]


def test_what_is_steady_is_read_until_it_is_the_same_twice() -> None:
    answers = [[["old", "old"]], [["new", "old"]], [["new", "new"]], [["new", "new"]]]
    assert whole_rows(lambda: answers.pop(0), range(2), steady=True) == [["new", "new"]]


@pytest.mark.neo4j
@pytest.mark.parametrize(
    ("come", "go", "read"),
    [
        pytest.param(
            lambda graph: rules.upsert_rule(graph, RULE),
            lambda graph: rules.remove_rule(graph, RULE.rule_id),
            rules.rules_page,
            id="rules",
        ),
        pytest.param(
            lambda graph: catalogue.upsert(graph, [PRODUCT]),
            lambda graph: catalogue.take_out(graph, [PRODUCT.product_id]),
            lambda graph: [each.product for each in catalogue.page(graph, "", 10)],
            id="products",
        ),
    ],
)
def test_what_comes_and_goes_is_there_whole_or_not_at_all(
    graph: Graph, come: Callable[[Graph], Any], go: Callable[[Graph], Any], read: Callable[[Graph], list[Any]]
) -> None:
    leaving = threading.Event()

    def change() -> None:
        while not leaving.is_set():
            come(graph)
            go(graph)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        seen = [tuple(read(graph)) for _ in range(300)]
    finally:
        leaving.set()
        changing.join()
    assert set(seen) <= {(), (RULE,), (PRODUCT,)}


@pytest.mark.neo4j
@pytest.mark.parametrize(
    ("write", "one", "other", "read"),
    [
        pytest.param(
            rules.upsert_rule,
            RULE,
            rules.Rule(RULE.rule_id, rules.Action.BURY, rules.Target.CATEGORY, "Home", 0.1),
            rules.rules_page,
            id="rules",
        ),
        pytest.param(
            lambda graph, product: catalogue.upsert(graph, [product]),
            PRODUCT,
            catalogue.Product(PRODUCT.product_id, "Lamp 2", price=1.0, attributes=(("size", "big"), ("year", "2"))),
            lambda graph: [each.product for each in catalogue.page(graph, "", 10)],
            id="products",
        ),
    ],
)
def test_what_is_changed_is_read_as_it_was_or_as_it_is(
    graph: Graph, write: Callable[[Graph, Any], Any], one: Any, other: Any, read: Callable[[Graph], list[Any]]
) -> None:
    write(graph, one)
    leaving = threading.Event()
    calls, ended = 200, [0] * 4

    def change() -> None:
        for value in itertools.cycle((other, one)):
            if leaving.is_set():
                return
            write(graph, value)
            # No call meets more changes than one or two: under changes without a pause it may give up.
            until(partial(all_went_on, list(ended)))

    def all_went_on(then: list[int]) -> bool:
        return leaving.is_set() or all(now > was or now == calls for now, was in zip(ended, then, strict=True))

    def reader(place: int) -> set[Any]:
        seen: set[Any] = set()
        for _ in range(calls):
            seen |= set(read(graph))
            ended[place] += 1
        return seen

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(4) as readers:
            seen = set[Any]().union(*readers.map(reader, range(4)))
        exports = [graph.export() for _ in range(5)]
    finally:
        leaving.set()
        changing.join()
    assert seen <= {one, other}
    assert all(each.products["title"].to_pylist() in ([], ["Lamp"], ["Lamp 2"]) for each in exports)


@pytest.mark.neo4j
@pytest.mark.parametrize("at_once", [50_000, 1], ids=["many in a record", "row by row"])
def test_the_graph_is_exported_while_users_and_products_come_and_go(
    graph: Graph, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg.outgoing._ROWS_AT_ONCE", at_once)
    graph.load(SMALL)
    there = set(graph.export().interactions["event_id"].to_pylist())
    leaving = threading.Event()

    def change() -> None:
        for number in itertools.count():
            visits = [event(f"{number}-{each}", f"visitor-{number}", A_PRODUCT) for each in range(20)]
            graph.append_events(tables(interactions=visits).interactions, "a-journal", number)
            catalogue.upsert(graph, [PRODUCT])
            erase_user(graph, f"visitor-{number}")
            catalogue.take_out(graph, [PRODUCT.product_id])
            if leaving.is_set():
                return

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(30):
            assert there <= set(graph.export().interactions["event_id"].to_pylist())
    finally:
        leaving.set()
        changing.join()


@pytest.mark.neo4j
def test_what_is_stored_of_a_user_is_told_while_the_user_is_erased(graph: Graph) -> None:
    graph.load(SMALL)
    leaving = threading.Event()

    def change() -> None:
        for number in itertools.count():
            visits = [event(f"{number}-{each}", "visitor", A_PRODUCT) for each in range(3)]
            graph.append_events(tables(interactions=visits).interactions, "a-journal", number)
            graph.append_searches([(f"s-{number}", "visitor", "lamps", number)])
            erase_user(graph, "visitor")
            if leaving.is_set():
                return

    def read() -> set[str]:
        return {record["record"] for _ in range(250) for record in stored_of(graph, "visitor")}

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(4) as readers:
            kinds = [reading.result() for reading in [readers.submit(read) for _ in range(4)]]
    finally:
        leaving.set()
        changing.join()
    assert set.union(*kinds) <= {"user", "interaction", "search"}


@pytest.mark.neo4j
def test_all_that_is_stored_of_a_user_is_told_beside_what_has_no_name(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg.erasure._PAGE", 3)
    graph.write("CREATE (u:User {id: 'visitor'}) WITH u UNWIND range(1, 4) AS each CREATE (u)-[:A_NOTED]->(:Note)")
    graph.write(
        "MATCH (u:User {id: 'visitor'}) UNWIND range(1, 4) AS each CREATE (u)-[:LIKES]->(:Brand {name: each + ''})"
    )
    ends = [record["id"] for record in stored_of(graph, "visitor") if record["record"] == "fact"]
    assert ends == ["1", "2", "3", "4"]
