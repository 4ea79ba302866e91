"""What is read of the graph while others remove it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from kg import catalogue, rules
from kg.store import Graph
from kg.whole_rows import whole_rows

PRODUCT = catalogue.Product("lamp-1", "Lamp", "It shines.", "Bright", ("Home",), 9.5, True, (("colour", "red"),))
RULE = rules.Rule("sale-1", rules.Action.BOOST, rules.Target.BRAND, "Bright")


def test_a_row_of_something_just_removed_is_read_again() -> None:
    answers = [[["a", 1, None], ["b", None, None]], [["a", 1, None]]]
    assert whole_rows(lambda: answers.pop(0), 2) == [["a", 1, None]]
    assert answers == []


def test_a_row_that_stays_in_parts_is_left_out() -> None:
    assert whole_rows(lambda: [["a", 1], ["b", None]], 2) == [["a", 1]]


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
