"""What recipes count, on graphs so small that the figures can be said by hand."""

from typing import Any

import pytest

from kg.recipes import load_recipe
from kg.store import Graph
from tests.kg.small_tables import event, tables

pytestmark = pytest.mark.neo4j


def run(graph: Graph, name: str, *assignments: str) -> list[list[Any]]:
    recipe = load_recipe(name)
    return graph.read(recipe.cypher, **recipe.bind(list(assignments)))


def product(product_id: str, brand: str, *category: str) -> dict[str, Any]:
    return {"product_id": product_id, "brand": brand, "category": list(category)}


def test_categories_of_one_name_are_told_apart_by_their_paths(graph: Graph) -> None:
    phones, bikes = ("Phones", "Accessories"), ("Bikes", "Accessories")
    graph.load(
        tables(
            products=[product("case", "Alder", *phones), product("bell", "Kestrel", *bikes)],
            users=[{"user_id": "ann", "attributes": [("age", "35-54")]}],
            interactions=[event("e1", "ann", "case", at_ms=1_000), event("e2", "ann", "bell", at_ms=2_000)],
        )
    )
    assert run(graph, "brand_loyalty", "min_buyers=1") == [["Alder", 1, 1, 0.0, 1.0], ["Kestrel", 1, 1, 0.0, 1.0]]
    assert run(graph, "category_paths") == [["Phones > Accessories", "Bikes > Accessories", 1]]
    both = ["Bikes > Accessories", "Phones > Accessories"]
    assert sorted(row[1] for row in run(graph, "segments", "attribute=age")) == both
    assert sorted(row[2] for row in run(graph, "user_profile", "user=ann")) == both


def test_loyalty_is_the_share_of_purchases_in_the_categories_that_a_brand_sells_in(graph: Graph) -> None:
    day = 86_400_000
    graph.load(
        tables(
            products=[
                product("beans", "Alder", "Coffee"),
                product("other beans", "Kestrel", "Coffee"),
                product("unsold tea", "Alder", "Tea"),
                product("tea", "", "Tea"),
                product("loose", "Northwind"),
            ],
            interactions=[
                event("e1", "ann", "beans"),
                event("e2", "ann", "beans", at_ms=day),
                event("e3", "ann", "other beans"),
                event("e4", "ann", "tea"),
                event("e5", "bob", "beans"),
                event("e6", "bob", "loose"),
                event("e7", "cid", "tea"),
            ],
            facts=[{"head": "tea", "relation": "HAS_BRAND", "tail": "Leafy", "tail_kind": "brand"}],
        )
    )
    assert run(graph, "brand_loyalty", "min_buyers=1") == [
        ["Alder", 2, 3, 0.5, 0.75],
        ["Leafy", 2, 2, 0.0, 1.0],
        ["Kestrel", 1, 1, 0.0, 0.333],
        ["Northwind", 1, 1, 0.0, None],  # of no category
    ]
    assert [row[0] for row in run(graph, "brand_loyalty", "min_buyers=1", "limit=2")] == ["Alder", "Leafy"]


def test_products_without_a_brand_are_no_pair_of_different_brands(graph: Graph) -> None:
    graph.load(
        tables(
            products=[product("beans", "Alder"), product("cup", ""), product("tea", "Kestrel")],
            interactions=[event(each, "ann", each) for each in ("beans", "cup", "tea")],
        )
    )
    pairs = [[row[1], row[3]] for row in run(graph, "bought_together", "min_users=1", "among=2")]
    assert pairs == [["beans", "tea"]]


def test_segments_of_many_groups_and_categories_are_counted(graph: Graph) -> None:
    # Each group buys of each category once, and the first of the first once more: 8,001 purchases.
    graph.write(
        "UNWIND range(0, 39) AS c CREATE (k:Category {path: toString(c)}) "
        "CREATE (:Product {id: toString(c)})-[:IN_CATEGORY {from_catalogue: true}]->(k) WITH count(*) AS all "
        "UNWIND range(0, 199) AS g CREATE (u:User {id: toString(g)}) "
        "CREATE (u)-[:HAS_ATTRIBUTE]->(:Attribute {id: 'age=' + g, key: 'age', value: toString(g)}) "
        "WITH u MATCH (p:Product) CREATE (u)-[:PURCHASED {event_id: u.id + ' ' + p.id}]->(p)"
    )
    graph.write("MATCH (u:User {id: '0'}) MATCH (p:Product {id: '0'}) CREATE (u)-[:PURCHASED {event_id: 'more'}]->(p)")
    rows = run(graph, "segments", "attribute=age", "limit=9000")
    assert len(rows) == 8_000
    assert rows[0] == ["0", "0", 2, round(2 * 8_001 / (41 * 201), 2)]
    assert {row[2] for row in rows[1:]} == {1}
    assert {row[3] for row in rows if row[0] != "0" and row[1] != "0"} == {round(8_001 / (40 * 200), 2)}


def test_segments_are_as_often_above_the_average_as_their_purchases_say(graph: Graph) -> None:
    bought = {("young", "Tea"): 3, ("young", "Coffee"): 1, ("old", "Coffee"): 2}
    events = [(*key, number) for key, count in bought.items() for number in range(count)]
    graph.load(
        tables(
            products=[product(name, "", name) for name in ("Tea", "Coffee")],
            users=[{"user_id": name, "attributes": [("age", name)]} for name in ("young", "old")],
            interactions=[event(f"{group} {name} {number}", group, name) for group, name, number in events],
        )
    )
    assert run(graph, "segments", "attribute=age") == [
        ["old", "Coffee", 2, 2.0],  # 2 of 2, and 3 of 6 of all
        ["young", "Tea", 3, 1.5],
        ["young", "Coffee", 1, 0.5],
    ]
