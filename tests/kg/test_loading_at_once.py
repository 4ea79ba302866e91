"""Loads beside each other, and beside a server that writes: the graph is as one of them left it."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from kg.loading import load
from kg.progress import SILENT
from kg.store import Graph, Result
from tests.kg.small_tables import event, tables

pytestmark = pytest.mark.neo4j


class Beside:
    """The graph; once, right before a certain write, another one writes."""

    def __init__(self, graph: Graph, before: str, other: Callable[[], object]) -> None:
        self._graph = graph
        self._before = before
        self._other: Callable[[], object] | None = other

    def write(self, cypher: str, rows: Any = None, **parameters: Any) -> Result:
        if self._other is not None and self._before in cypher:
            other, self._other = self._other, None
            other()
        return self._graph.write(cypher, rows, **parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def as_graph(self) -> Graph:
        return cast(Graph, self)


def test_of_two_first_loads_at_once_one_has_the_links_of_a_product(graph: Graph) -> None:
    one, other = (
        tables(products=[{"product_id": "a", "brand": name, "category": [name], "attributes": [("is", name)]}])
        for name in ("one", "other")
    )
    load(Beside(graph, ":HAS_BRAND", lambda: graph.load(other)).as_graph(), one, SILENT)
    links = graph.read("MATCH (:Product {id: 'a'})-[r]->() RETURN type(r) AS type ORDER BY type")
    assert links == [["HAS_ATTRIBUTE"], ["HAS_BRAND"], ["IN_CATEGORY"]]


def test_a_first_load_passes_over_events_that_a_server_has_written_meanwhile(graph: Graph) -> None:
    given = tables(products=[{"product_id": "a"}], interactions=[event("e1", "ann", "a"), event("e2", "bob", "a")])
    beside = Beside(
        graph, "CREATE (u)-[:PURCHASED", lambda: graph.append_events(given.interactions.slice(1), "journal", 1)
    )
    load(beside.as_graph(), given, SILENT)
    found = graph.read("MATCH (u:User)-[r:PURCHASED]->() RETURN u.id, r.event_id ORDER BY u.id")
    assert found == [["ann", "e1"], ["bob", "e2"]]


def test_an_attribute_that_another_load_removes_just_before_it_is_linked_is_made_again(graph: Graph) -> None:
    def users(name: str, value: str) -> Any:
        return tables(users=[{"user_id": name, "attributes": [("email", value)]}])

    graph.load(users("ann", "a=@x"))
    beside = Beside(graph, "CREATE (a)-[:HAS_ATTRIBUTE", lambda: graph.load(users("ann", "b@x")))
    load(beside.as_graph(), users("bob", "a=@x"), SILENT)
    links = graph.read("MATCH (u:User)-[:HAS_ATTRIBUTE]->(x) RETURN u.id, x.key, x.value ORDER BY u.id")
    assert links == [["ann", "email", "b@x"], ["bob", "email", "a=@x"]]
