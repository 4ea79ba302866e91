"""Who was erased does not come back with a shop's files, whenever that was."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from kg import loading
from kg.erasure import erase_user
from kg.freeze import freeze
from kg.store import Graph
from kg.tables import Tables
from tests.kg.small_tables import event, tables

pytestmark = pytest.mark.neo4j

FILES = tables(
    products=[{"product_id": "beans"}],
    users=[{"user_id": name, "attributes": [("town", name)]} for name in ("ann", "bob")],
    interactions=[event("e1", "ann", "beans"), event("e2", "bob", "beans")],
    facts=[{"head": "ann", "relation": "KNOWS", "tail": "bob", "head_kind": "user", "tail_kind": "user"}],
)
AT_MS = int(FILES.interactions["at_ms"][0].as_py())


def test_who_was_erased_does_not_come_back_with_the_files(graph: Graph) -> None:
    graph.load(FILES)
    erase_user(graph, "ann", AT_MS + 1)
    report = graph.load(FILES)
    assert report.erased == 3
    assert graph.read("MATCH (u:User) RETURN u.id") == [["bob"]]
    assert freeze(graph.export()).users.array.to_pylist() == ["bob"]
    # What came after the erasure is new.
    later = dict(event("e3", "ann", "beans"), at_ms=AT_MS + 2)
    assert graph.load(replace(FILES, interactions=tables(interactions=[later]).interactions)).erased == 2
    assert graph.read("MATCH (u:User {id: 'ann'})-[r]->() RETURN type(r), u.attribute_keys") == [["PURCHASED", None]]


@pytest.mark.parametrize("step", ["_load_products", "_load_users", "_load_interactions", "_load_facts"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_who_is_erased_while_files_are_loaded_is_not_in_the_graph_afterwards(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, step: str, comes_back: bool
) -> None:
    going_on = getattr(loading, step)
    after_ms = AT_MS + 1

    def erased_meanwhile(*given: Any) -> object:
        monkeypatch.setattr(loading, step, going_on)
        erase_user(graph, "ann", after_ms)
        if comes_back:  # a server tells of it
            later = dict(event("e3", "ann", "beans"), at_ms=after_ms + 1)
            graph.write("MERGE (:Product {id: 'beans'})")
            graph.append_events(tables(interactions=[later]).interactions, "journal", 1)
        return going_on(*given)

    monkeypatch.setattr(loading, step, erased_meanwhile)
    home = {"head": "ann", "relation": "LIVES_IN", "tail": "a house", "head_kind": "user", "tail_kind": "house"}
    graph.load(replace(FILES, facts=pa.concat_tables([FILES.facts, tables(facts=[home]).facts])))
    left = graph.read("MATCH (u:User {id: 'ann'}) OPTIONAL MATCH (u)-[r]->() RETURN r.event_id")
    assert left == ([["e3"]] if comes_back else [])
    assert graph.read("MATCH (u:User {id: 'bob'})-[r:PURCHASED]->() RETURN r.event_id") == [["e2"]]
    # Nor is what only ann had, as the step that went on brought it.
    assert graph.read("MATCH (x) WHERE x:Attribute OR x:Entity RETURN x.id") == [["town=bob"]]


def test_an_attribute_that_a_user_had_before_is_not_left_for_an_erasure_to_miss(graph: Graph) -> None:
    def users(**emails: str) -> Tables:
        return tables(users=[{"user_id": name, "attributes": [("email", value)]} for name, value in emails.items()])

    graph.load(users(ann="a@x", bob="b@x", carl="shared", dora="shared"))
    graph.load(users(ann="b@x", bob="c@x", carl="d@x"))  # one takes what another had alone
    attributes = "MATCH (x:Attribute) RETURN x.id, x.key, x.value ORDER BY x.id"
    values = ["b@x", "c@x", "d@x", "shared"]
    assert graph.read(attributes) == [[f"email={value}", "email", value] for value in values]
    links = graph.read("MATCH (u:User)-[:HAS_ATTRIBUTE]->(x) RETURN u.id, x.value ORDER BY u.id")
    assert links == [["ann", "b@x"], ["bob", "c@x"], ["carl", "d@x"], ["dora", "shared"]]
    erase_user(graph, "ann")
    assert [row[2] for row in graph.read(attributes)] == values[1:]
