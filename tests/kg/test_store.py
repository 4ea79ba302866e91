"""The graph store against a real Neo4j: what is loaded comes back, once, whatever happens on the way."""

import json
import traceback
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg import schema
from kg.catalogue import take_out
from kg.erasure import Erasure, erase_again, erase_user, erasures_since, user_key
from kg.errors import DataError, GraphError
from kg.exporting import row_count
from kg.facts import facts_about
from kg.freeze import freeze
from kg.quality import clean
from kg.sources.tables import TableFiles, read_tables
from kg.store import Graph
from kg.tables import InteractionType, Tables
from tests.conftest import empty
from tests.kg.small_tables import SMALL, event, same_rows, tables

pytestmark = pytest.mark.neo4j


def test_what_is_loaded_is_exported(graph: Graph) -> None:
    graph.load(SMALL)
    assert same_rows(graph.export(), SMALL)


def test_a_second_load_of_the_same_tables_changes_nothing(graph: Graph) -> None:
    first = graph.load(SMALL)
    second = graph.load(SMALL)
    assert first.nodes_created > 0
    assert (second.nodes_created, second.relationships_created) == (0, 0)
    assert same_rows(graph.export(), SMALL)


@pytest.mark.parametrize("types", [("view", "purchase"), ("purchase", "view")])
def test_an_event_that_is_there_as_another_type_is_passed_over(graph: Graph, types: tuple[str, str]) -> None:
    for type_ in types:
        products, events = [{"product_id": "beans"}], [event("e1", "ann", "beans", type=type_)]
        if type_ == types[1]:
            events.append(event("e2", "ann", "beans", type=type_))
        graph.load(tables(products=products, interactions=events))
    found = graph.export().interactions
    assert sorted(zip(found["event_id"].to_pylist(), found["type"].to_pylist(), strict=True)) == [
        ("e1", types[0]),
        ("e2", types[1]),
    ]


def test_the_snapshot_of_an_export_is_the_snapshot_of_the_tables(graph: Graph) -> None:
    graph.load(SMALL)
    hashes = {freeze(tables).content_hash for tables in (SMALL, graph.export(), graph.export())}
    assert len(hashes) == 1


def test_an_export_as_of_a_moment_leaves_out_what_came_later(graph: Graph) -> None:
    graph.load(SMALL)
    interactions = graph.export(as_of_ms=2_000).interactions
    assert sorted(interactions["event_id"].to_pylist()) == ["e1", "e2", "e3"]


def test_a_product_given_again_takes_its_new_columns(graph: Graph) -> None:
    graph.load(SMALL)
    changed = tables(
        products=[{"product_id": "beans", "title": "Beans", "brand": "Kestrel", "category": ["Coffee"], "price": None}]
    )
    graph.load(changed)
    rows = graph.read(
        "MATCH (p:Product {id: 'beans'})-[r:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]->(x) "
        "RETURN p.title, p.price, coalesce(x.name, x.id) ORDER BY type(r)"
    )
    assert rows == [["Beans", None, "Kestrel"], ["Beans", None, "Coffee"]]


def test_what_is_too_long_to_be_a_node_does_not_end_a_load_and_what_is_just_not_fits(
    graph: Graph, tmp_path: Path
) -> None:
    rows = [
        {"product_id": "a", "attributes": {"notes": "x " * 5_000}, "category": ["y" * 9_000], "brand": "z" * 9_000},
        {
            "product_id": "b" * 256,
            "attributes": {"k" * 256: "é" * 512},
            "category": ["x" * 253] * 8,
            "brand": "z" * 256,
        },
    ]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = clean(read_tables(TableFiles(products=(tmp_path / "products.jsonl",))))
    assert {rule.rule for rule in found.report.rules} == {"attribute_too_long", "category_too_long", "brand_too_long"}
    graph.load(found.tables)
    assert same_rows(graph.export(), found.tables)


def test_what_a_person_added_beside_the_schema_is_no_part_of_an_export(graph: Graph) -> None:
    graph.load(SMALL)
    about = facts_about(graph, "beans")
    for added in (
        "MERGE (p)-[:HAS_NOTE]->(n:Note {text: 'hello'}) MERGE (n)-[:ABOUT]->(p)",
        "MERGE (p)-[:HAS_NOTE]->(:Note {id: 'n', kind: 'note'})",
        "MERGE (p)-[:`größer als`]->(:Note) MERGE (p)-[:likes]->(p)",
        "MERGE (p)-[:SEEN]->({text: 'of no label'})",
        "MERGE (p)-[:SEEN]->(:Entity {id: 'of no kind'}) MERGE (p)-[:SEEN]->(:Brand {title: 'of no name'})",
        "MERGE (u:User {id: 'ann'}) MERGE (u)-[:VIEWED {at: 1, position: 1, event_id: 'whole'}]->(:Note {id: 'cup'})",
        "MERGE (u:User {id: 'ann'}) MERGE (u)-[:VIEWED]->(:Note) MERGE (u)-[:VIEWED {at: 1}]->(p)",
    ):
        graph.write(f"MATCH (p:Product {{id: 'beans'}}) {added}")
        assert same_rows(graph.export(), SMALL), added
        assert same_rows(graph.export(as_of_ms=5_000), SMALL), added
        assert facts_about(graph, "beans") == about, added
    assert graph.read("MATCH (:Product)-[r:HAS_NOTE|`größer als`|likes|SEEN]->() RETURN count(r)") == [[7]]
    take_out(graph, ["beans"])


def test_facts_of_an_id_outside_the_catalogue_go_to_its_product_when_it_joins(graph: Graph) -> None:
    graph.load(SMALL)
    graph.write("MATCH (e:Entity {id: 'gone'}) CREATE (e)-[:`of my own`]->(:Note {text: 'it was good'})")
    graph.load(tables(products=[{"product_id": "gone", "title": "Back again"}]))
    assert graph.read("MATCH (:Product {id: 'gone'})-[:`of my own`]->(n) RETURN n.text") == [["it was good"]]
    rows = graph.read("MATCH (:Product {id: 'beans'})-[:ALSO_BOUGHT]->(p) RETURN labels(p), p.title")
    assert rows == [[["Product"], "Back again"]]
    assert graph.read("MATCH (e:Entity {id: 'gone'}) RETURN e") == []


def test_an_event_on_an_unknown_product_is_counted_and_left_out(graph: Graph) -> None:
    report = graph.load(tables(interactions=[event("e1", "ann", "nowhere")]))
    assert report.unknown_products == 1
    assert len(graph.export().interactions) == 0


def test_a_fact_beside_a_link_of_the_catalogue_stays_one_when_its_end_joins(graph: Graph) -> None:
    fact = {"head": "beans", "relation": "HAS_BRAND", "tail": "Acme", "tail_kind": "brand"}
    other = {"head": "beans", "relation": "GOES_WITH", "tail": "milk"}
    graph.load(tables(products=[{"product_id": "milk"}], facts=[fact, other]))
    described = tables(products=[{"product_id": "beans", "brand": "Acme"}], facts=[fact, other])
    for _ in range(2):
        graph.load(described)
        links = graph.read("MATCH (:Product {id: 'beans'})-[r]->() RETURN type(r), r.from_catalogue ORDER BY type(r)")
        assert sorted(links, key=str) == [["GOES_WITH", None], ["HAS_BRAND", False], ["HAS_BRAND", True]]
    assert graph.read("MATCH (e:Entity) RETURN count(e)") == [[0]]


@pytest.mark.parametrize("relation", ["lower", "HAS-DASH", "A`]->() DELETE", "", "1ST", "PURCHASED", "RECOMMENDED"])
def test_a_relation_that_is_no_relation_name_is_refused_before_anything_is_loaded(graph: Graph, relation: str) -> None:
    bad = tables(products=[{"product_id": "a"}], facts=[{"head": "a", "relation": relation, "tail": "a"}])
    with pytest.raises(DataError, match="relation"):
        graph.load(bad)
    assert graph.read("MATCH (n) RETURN count(n)") == [[0]]


def test_every_interaction_type_comes_back(graph: Graph) -> None:
    rows = [event(f"e{kind}", "u", "a", type=str(kind), position=n) for n, kind in enumerate(InteractionType)]
    given = tables(products=[{"product_id": "a"}], interactions=rows)
    graph.load(given)
    assert same_rows(graph.export(), given)


def test_progress_reaches_every_row(graph: Graph) -> None:
    progress = Count()
    graph.load(SMALL, progress)
    assert progress.done == sum(len(table) for _, table in SMALL)
    progress = Count()
    graph.export(progress=progress)
    assert progress.done == sum(len(table) for _, table in SMALL) <= row_count(graph)


class Count:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count


# Journal


def test_events_and_the_journal_offset_arrive_together_and_once(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    events = tables(
        interactions=[event("e1", "new user", "a", value=2.0), event("e2", "new user", "a", type="view", at_ms=5)]
    ).interactions
    assert graph.journal_offset("server-1") == 0
    assert graph.append_events(events, "server-1", 2) == 2
    assert graph.append_events(events, "server-1", 2) == 0
    assert graph.journal_offset("server-1") == 2
    assert graph.journal_offset("server-2") == 0
    assert same_rows(Tables(interactions=graph.export().interactions), Tables(interactions=events))


def test_an_event_that_another_journal_wrote_is_not_written_again(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    events = tables(interactions=[event("e1", "u", "a")]).interactions
    assert graph.append_events(events, "server-1", 1) == 1
    assert graph.append_events(events, "server-2", 7) == 0
    assert graph.journal_offset("server-2") == 7


def test_an_event_given_twice_in_a_batch_is_written_once(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    events = tables(interactions=[event("e1", "u", "a"), event("e1", "u", "a")]).interactions
    assert graph.append_events(events, "server-1", 2) == 1


def test_what_a_server_received_before_an_erasure_does_not_bring_the_user_back(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e0", "ann", "a")]))
    erasure, _ = erase_user(graph, "ann")
    # Another server has not heard of it yet.
    late = tables(interactions=[event("e1", "ann", "a"), event("e2", "bob", "a")]).interactions
    assert graph.append_events(late, "server-2", 2, [erasure.at_ms] * 2) == 1
    assert graph.append_events(late.slice(0, 1), "server-2", 3, [erasure.at_ms]) == 0
    graph.append_searches([("s1", "ann", "beans", erasure.at_ms), ("s2", "bob", "beans", erasure.at_ms)])
    assert graph.journal_offset("server-2") == 3
    assert graph.read("MATCH (u:User) RETURN u.id") == [["bob"]]
    # What comes after the erasure is new.
    assert graph.append_events(late.slice(0, 1), "server-2", 4, [erasure.at_ms + 1]) == 1
    graph.append_searches([("s3", "ann", "tea", erasure.at_ms + 1)])
    found = graph.read("MATCH (:User {id: 'ann'})-[r]->() RETURN r.event_id ORDER BY r.event_id")
    assert found == [["e1"], ["s3"]]


def test_a_restored_graph_keeps_when_a_user_was_erased(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e0", "ann", "a")]))
    assert erase_again(graph, [Erasure(user_key("ann"), 5, 1_000)]) == 1
    assert [(each.user_key, each.at_ms) for each in erasures_since(graph, 0)] == [(user_key("ann"), 1_000)]


def test_appended_events_wait_for_a_product_that_a_later_load_describes(graph: Graph) -> None:
    events = tables(interactions=[event("e1", "u", "a"), event("e2", "u", "a", type="view", at_ms=5)])
    assert graph.append_events(events.interactions, "server-1", 2) == 2
    bare = tables(products=[{"product_id": "a"}], interactions=events.interactions.to_pylist())
    assert same_rows(graph.export(), bare)
    described = tables(products=[{"product_id": "a", "title": "A", "brand": "B", "price": 2.0}])
    graph.load(described)
    assert same_rows(graph.export(), Tables(interactions=events.interactions, products=described.products))


# Queries


def test_a_reading_query_can_not_write(graph: Graph) -> None:
    with pytest.raises(GraphError, match="writes") as caught:
        graph.query("CREATE (n:User {id: 'x'})")
    assert "--write" in caught.value.remedy
    assert graph.read("MATCH (n) RETURN count(n)") == [[0]]


def test_a_wrong_query_is_one_clear_error(graph: Graph) -> None:
    with pytest.raises(GraphError, match="Invalid input"):
        graph.query("MTCH (n) RETURN n")


def test_a_key_that_is_taken_is_said_without_its_value(graph: Graph) -> None:
    user_id = f"ann-{7 * 191}"  # not in this source, which a traceback shows
    with pytest.raises(GraphError, match="key is there already") as caught:
        graph.write("CREATE (:User {id: $id}), (:User {id: $id})", id=user_id)
    assert user_id not in "".join(traceback.format_exception(caught.value))
    assert "ConstraintValidationFailed" in caught.value.remedy


def test_nodes_relationships_and_paths_become_plain_values(graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a", "brand": "B"}]))
    result = graph.query("MATCH path = (p:Product)-[r:HAS_BRAND]->(b) RETURN b, r, path, date('2025-01-02') AS day")
    brand, link, path, day = result.plain_rows()[0]
    assert brand == {"labels": ["Brand"], "name": "B"}
    assert link == {"type": "HAS_BRAND", "from_catalogue": True}
    assert [part.get("labels") or part["type"] for part in path] == [["Product"], "HAS_BRAND", ["Brand"]]
    assert day == "2025-01-02"


def test_a_path_has_its_relationships_also_where_they_have_no_properties(graph: Graph) -> None:
    fact = {"head": "a", "relation": "GOES_WITH", "tail": "b"}
    graph.load(tables(products=[{"product_id": "a"}, {"product_id": "b"}], facts=[fact]))
    (path,) = graph.query("MATCH path = (:Product {id: 'a'})-[:GOES_WITH]->(:Product) RETURN path").plain_rows()[0]
    assert [part.get("labels") or part["type"] for part in path] == [["Product"], "GOES_WITH", ["Product"]]


def test_every_constraint_of_the_schema_is_in_the_database(graph: Graph) -> None:
    names = {row[0] for row in graph.read("SHOW CONSTRAINTS YIELD name RETURN name")}
    assert len(names) >= len(schema.constraints())
    with pytest.raises(GraphError, match="is there already"):
        graph.write("CREATE (:User {id: 'x'}), (:User {id: 'x'})")


# Any tables

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
ID = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
ATTRIBUTES = st.dictionaries(TEXT, TEXT, max_size=3).map(lambda pairs: list(pairs.items()))
NAME = TEXT.filter(lambda name: " > " not in name and name)


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    products = draw(st.lists(ID, max_size=5, unique=True))
    users = draw(st.lists(ID, max_size=4, unique=True))
    product = st.sampled_from(products) if products else st.nothing()
    events = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "user_id": ID,
                    "product_id": product,
                    "type": st.sampled_from([str(kind) for kind in InteractionType]),
                    "at_ms": st.integers(-(2**40), 2**60),
                    "value": st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32),
                }
            ),
            max_size=8 if products else 0,
        )
    )
    kinds = st.sampled_from(["product", "brand", "category", "attribute", "user", "country"])
    ends = (product | ID) if products else ID
    facts = draw(
        st.lists(
            st.tuples(ends, st.sampled_from(["LIKES", "HAS_BRAND", "IN_CATEGORY", "A1"]), ends, kinds, kinds),
            max_size=6,
            unique=True,
        )
    )
    return tables(
        products=[
            {
                "product_id": each,
                "title": draw(TEXT),
                "description": draw(TEXT),
                "brand": draw(TEXT),
                "category": draw(st.lists(NAME, max_size=3)),
                "price": draw(st.none() | st.floats(0, 1e9)),
                "available": draw(st.none() | st.booleans()),
                "attributes": draw(ATTRIBUTES),
            }
            for each in products
        ],
        users=[{"user_id": each, "attributes": draw(ATTRIBUTES)} for each in users],
        interactions=[row | {"event_id": f"e{n}", "position": n} for n, row in enumerate(events)],
        facts=[dict(zip(("head", "relation", "tail", "head_kind", "tail_kind"), fact, strict=True)) for fact in facts],
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_tables=any_tables())
def test_any_tables_come_back_as_they_went_in(shared_graph: Graph, given_tables: Tables) -> None:
    try:
        shared_graph.load(given_tables)
        shared_graph.load(given_tables)
        exported = shared_graph.export()
        assert same_rows(exported, given_tables)
        assert freeze(exported).content_hash == freeze(given_tables).content_hash
    finally:
        empty(shared_graph)


def test_tables_of_an_empty_graph_are_empty(graph: Graph) -> None:
    exported: Any = graph.export()
    assert all(len(table) == 0 for _, table in exported)
    assert isinstance(exported.interactions, pa.Table)
