"""Events and facts in bounded pieces: however many one node has, the store's memory holds them."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from kg.erasure import erase_events
from kg.errors import GraphUnavailableError
from kg.exporting import export
from kg.freeze import freeze
from kg.progress import SILENT
from kg.store import Graph
from tests.kg.small_tables import SMALL, event, same_rows, tables

pytestmark = pytest.mark.neo4j

MANY = tables(
    products=[{"product_id": each} for each in "abcdefgh"],
    interactions=[
        *(
            event(f"g-{place}", "guest", "abcdefgh"[place % 8], at_ms=100 - place, position=place)
            for place in range(30)
        ),
        *(event(f"{user}-{place}", user, "b", at_ms=place) for user in ("ann", "zoe", "bob") for place in range(3)),
        event("view", "guest", "a", type="view", at_ms=7),
    ],
    facts=[{"head": "a", "relation": "ALSO_BOUGHT", "tail": f"gone-{place}"} for place in range(12)],
)
AT_ONCE = 4


class Watched:
    """A graph that notes how many rows each record holds, and how many relationships were read row by row."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.in_records: list[int] = []
        self.streamed = 0

    def read(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        rows = self.graph.read(cypher, **parameters)
        if "collect(type(r))" in cypher:
            self.in_records += [len(column) for row in rows for column in row]
        return rows

    def stream(self, cypher: str, **parameters: Any) -> Iterator[list[Any]]:
        for row in self.graph.stream(cypher, **parameters):
            self.streamed += 1
            yield row


def test_no_record_holds_more_than_it_may_and_the_snapshot_is_the_same(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(MANY)
    at_once = freeze(graph.export())
    monkeypatch.setattr("kg.outgoing._ROWS_AT_ONCE", AT_ONCE)
    watched = Watched(graph)
    exported = export(cast(Graph, watched), None, SILENT)
    assert same_rows(exported, MANY)
    assert freeze(exported).content_hash == at_once.content_hash == freeze(MANY).content_hash
    assert watched.streamed == 31 + 12, "the guest's events, and the facts of the hub"
    assert 0 < max(watched.in_records) <= AT_ONCE
    early = export(cast(Graph, watched), 50, SILENT).interactions
    assert set(early["event_id"].to_pylist()) == {
        each
        for each, at_ms in zip(*(MANY.interactions[name].to_pylist() for name in ("event_id", "at_ms")), strict=True)
        if at_ms <= 50
    }


def test_what_never_was_a_whole_event_of_a_busy_user_is_left_out(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.load(SMALL)
    graph.write("MATCH (u:User {id: 'ann'}), (p:Product {id: 'cup'}) CREATE (u)-[:VIEWED {at: 1}]->(p)")
    monkeypatch.setattr("kg.outgoing._ROWS_AT_ONCE", 1)
    assert same_rows(graph.export(), SMALL)


def test_an_event_that_goes_while_a_busy_user_is_read_takes_no_other_with_it(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(MANY)
    monkeypatch.setattr("kg.outgoing._ROWS_AT_ONCE", AT_ONCE)

    class Erasing(Watched):
        def stream(self, cypher: str, **parameters: Any) -> Iterator[list[Any]]:
            for row in super().stream(cypher, **parameters):
                gone = row[-1] == "g-3" and erase_events(self.graph, ["g-3"])
                yield [*row[:-1], None] if gone else row  # as Neo4j tells of what is just removed

    left = export(cast(Graph, Erasing(graph)), None, SILENT).interactions["event_id"].to_pylist()
    assert sorted(left) == sorted(each for each in MANY.interactions["event_id"].to_pylist() if each != "g-3")


def test_a_busy_user_is_read_from_the_start_where_the_graph_breaks_off(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(MANY)
    monkeypatch.setattr("kg.outgoing._ROWS_AT_ONCE", AT_ONCE)
    monkeypatch.setattr("kg.outgoing._WAIT_S", 0)

    class BreakingOff(Watched):
        def stream(self, cypher: str, **parameters: Any) -> Iterator[list[Any]]:
            for row in super().stream(cypher, **parameters):
                yield row
                if self.streamed == 2 * AT_ONCE + 1:
                    raise GraphUnavailableError("the graph does not answer", "Look at it.")

    assert same_rows(export(cast(Graph, BreakingOff(graph)), None, SILENT), MANY)
