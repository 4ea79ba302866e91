"""Files that have some of a table's columns, and cells with nothing in them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kg.catalogue import take_out
from kg.freeze import freeze
from kg.quality.rows import stated_columns
from kg.sources.tables import TableFiles, read_tables
from kg.store import Graph
from kg.tables import Tables
from tests.kg.small_tables import SMALL, same_rows, tables
from tests.kg.test_quality import EVENT, FACT, PRODUCT, checked, rules_of

BEANS = SMALL.products.to_pylist()[0]


def partly(stated: Collection[str], **rows: list[dict[str, Any]]) -> Tables:
    return replace(tables(**rows), stated=dict.fromkeys(rows, stated))


def product(graph: Graph, product_id: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = graph.export().products.to_pylist()
    return next(row for row in rows if row["product_id"] == product_id)


@pytest.mark.parametrize(("columns", "stated"), [({}, False), ({"event_id": "e1"}, True)])
def test_whether_events_have_ids_of_their_own_is_known(columns: dict[str, str], stated: bool) -> None:
    found = checked(interactions=[EVENT | columns]).tables
    assert ("event_id" in found.stated_of("interactions")) == stated


@pytest.mark.neo4j
@pytest.mark.parametrize(
    "given",
    [
        {"price": 4.5},
        {"price": None, "title": "Beans"},
        {"available": False},
        {"brand": "Kestrel"},
        {"brand": "", "title": "Beans"},
        {"category": ["Tea"], "description": ""},
        {"category": [], "title": "Beans"},
        {"attributes": [("roast", "light")]},
        {"attributes": [], "title": "Beans"},
    ],
)
def test_a_load_sets_and_links_the_columns_of_its_file_alone(graph: Graph, given: dict[str, Any]) -> None:
    graph.load(SMALL)
    for _ in range(2):
        graph.load(partly(["product_id", *given], products=[{"product_id": "beans"} | given]))
    expected = BEANS | given
    others = SMALL.products.to_pylist()[1:]
    assert product(graph, "beans") == expected
    links = "MATCH (:Product {id: 'beans'})-[{from_catalogue: true}]->(n) RETURN coalesce(n.name, n.id) AS n ORDER BY n"
    names = [
        expected["brand"],
        *expected["category"][-1:],
        *(f"{name}={value}" for name, value in expected["attributes"]),
    ]
    assert [name for (name,) in graph.read(links)] == sorted(filter(None, names))
    whole = replace(SMALL, products=tables(products=[expected, *others]).products)
    assert freeze(graph.export()).content_hash == freeze(whole).content_hash


@pytest.mark.neo4j
def test_a_new_product_and_one_that_was_taken_out_take_the_defaults_for_other_columns(graph: Graph) -> None:
    graph.load(SMALL)
    take_out(graph, ["beans"])
    prices: list[dict[str, Any]] = [{"product_id": product_id, "price": 4.5} for product_id in ("beans", "new")]
    graph.load(partly(["product_id", "price"], products=prices))
    expected = tables(products=prices).products.to_pylist()
    assert [product(graph, row["product_id"]) for row in prices] == expected


@pytest.mark.neo4j
def test_users_keep_their_attributes_unless_the_file_has_them(graph: Graph) -> None:
    graph.load(SMALL)
    graph.load(partly(["user_id"], users=[{"user_id": "ann"}, {"user_id": "new"}]))
    assert same_rows(Tables(users=graph.export().users), tables(users=[*SMALL.users.to_pylist(), {"user_id": "new"}]))
    graph.load(partly(["user_id", "attributes"], users=[{"user_id": "ann"}]))
    assert graph.read("MATCH (u:User {id: 'ann'})-[r:HAS_ATTRIBUTE]->() RETURN r") == []


@pytest.mark.neo4j
def test_of_a_column_that_not_all_files_have_a_value_is_taken_and_nothing_blanked(graph: Graph) -> None:
    graph.load(SMALL)
    rows: list[dict[str, Any]] = [{"product_id": "beans", "price": 1.0}, {"product_id": "cup", "title": "Mug"}]
    graph.load(partly(["product_id"], products=rows))
    assert product(graph, "beans") == BEANS | {"price": 1.0}
    assert product(graph, "cup") == SMALL.products.to_pylist()[1] | {"title": "Mug"}


def test_stated_are_the_columns_that_all_files_have(tmp_path: Path) -> None:
    whole, prices, titles = (tmp_path / name for name in ("whole.csv", "prices.csv", "titles.jsonl"))
    whole.write_text("product_id,title,price,brand\na,A,,\nb,B,2,\n")
    prices.write_text("product_id,price\nc,3\n")
    titles.write_text('{"product_id": "d", "title": "D"}\n')

    def stated(*paths: Path) -> frozenset[str]:
        return stated_columns(read_tables(TableFiles(products=paths)).tables["products"])

    assert stated(whole) == {"product_id", "title", "price", "brand"}
    assert stated(prices) == {"product_id", "price"}
    assert stated(whole, prices) == {"product_id", "price"}
    assert stated(whole, titles) == {"product_id", "title"}
    assert stated(whole, prices, titles) == {"product_id"}


@pytest.mark.parametrize("blank", ["", "  ", None, b""])
def test_an_event_with_a_blank_id_gets_a_derived_one(blank: Any) -> None:
    given = b"mine" if isinstance(blank, bytes) else "mine"
    result = checked(interactions=[EVENT | {"event_id": given}, EVENT | {"event_id": blank}])
    assert rules_of(result) == []
    assert [len(each) for each in result.tables.interactions["event_id"].to_pylist()] == [4, 32]
    derived = checked(interactions=[EVENT | {"event_id": blank}] * 2).tables.interactions
    assert derived.equals(checked(interactions=[EVENT] * 2).tables.interactions)


@pytest.mark.parametrize("blank", ["", " ", None])
def test_an_end_of_a_blank_kind_is_a_product(blank: str | None) -> None:
    blanks: dict[str, Any] = {"head_kind": blank, "tail_kind": blank}
    facts = [FACT | blanks, FACT | {"tail": "steel", "tail_kind": "material"}, FACT | blanks | {"tail": "gone"}]
    result = checked(products=[PRODUCT, PRODUCT | {"product_id": "p2"}], facts=facts)
    assert rules_of(result) == [("facts", "tail", "outside_catalogue", 1)]
    assert result.tables.facts["tail_kind"].to_pylist() == ["product", "material"]
