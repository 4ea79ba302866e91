"""Every recipe runs on the coffee shop, and answers what can be said by hand about it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kg.errors import ConfigError
from kg.quality import Policy, check
from kg.recipes import Recipe, load_recipe, load_recipes
from kg.schema import VECTOR_INDEX, vector_index
from kg.sources.mapping import ColumnMapping
from kg.sources.tables import TableFiles, read_tables
from kg.store import Graph
from kg.tables import Tables
from tests.conftest import empty

pytestmark = pytest.mark.neo4j

SHOP = Path(__file__).parents[2] / "examples" / "shop"
GIVEN = {
    "user_profile": ["user=user-001"],
    "why_product": ["user=user-001", "product=cups-053"],
    "bought_together": ["min_users=1"],
    "brand_neighbours": ["brand=Northwind"],
    "twins": ["product=beans-001"],
    "who_to_tell": ["product=beans-001"],
    "recommended": ["user=user-001"],
    "lookalikes": ["user=user-001"],
    "segments": ["attribute=age"],
    "cold_products": ["most=1000"],
    "rising_products": ["days=3"],
    "basket_pairs": ["hours=2400"],
}


@pytest.fixture(scope="module")
def shop() -> Tables:
    files = {name: (SHOP / f"{name}.csv",) for name in ("interactions", "products", "facts", "users")}
    return check(read_tables(TableFiles(**files), ColumnMapping()), Policy()).tables


@pytest.fixture(scope="module")
def shop_graph(shared_graph: Graph, shop: Tables) -> Iterator[Graph]:
    """The shop in the graph, with two-dimensional vectors and recommendations as `kgrank publish` writes them."""
    shared_graph.load(shop)
    # One product that nobody ever touched, and vectors by hand: products of one brand point the same way.
    shared_graph.write("CREATE (:Product {id: 'unsold', title: 'Unsold', description: '', brand: '', category: []})")
    brands = sorted(set(shop.products["brand"].to_pylist()))
    rows = [
        [product, [1.0, float(brands.index(brand))]]
        for product, brand in zip(
            shop.products["product_id"].to_pylist(), shop.products["brand"].to_pylist(), strict=True
        )
    ]
    shared_graph.write("UNWIND $rows AS row MATCH (p:Product {id: row[0]}) SET p.embedding = row[1]", rows)
    shared_graph.write(vector_index())
    shared_graph.write("CALL db.awaitIndexes(60)")
    shared_graph.write("CREATE (:ModelVersion {id: 'm1', active: true, created_at: 0})")
    shared_graph.write(
        "MATCH (u:User {id: 'user-001'}) UNWIND $rows AS row MATCH (p:Product {id: row[0]}) "
        "CREATE (u)-[:RECOMMENDED {rank: row[1], score: row[2], model: 'm1'}]->(p)",
        [["cups-053", 1, 0.9], ["tea-021", 2, 0.5]],
    )
    yield shared_graph
    empty(shared_graph)


def run(graph: Graph, name: str, *assignments: str) -> list[dict[str, Any]]:
    recipe = load_recipe(name)
    result = graph.query(recipe.cypher, recipe.bind(list(assignments)))
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda recipe: recipe.name)
def test_every_recipe_answers_on_the_shop(shop_graph: Graph, recipe: Recipe) -> None:
    rows = run(shop_graph, recipe.name, *GIVEN.get(recipe.name, []))
    assert rows, recipe.name


@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda recipe: recipe.name)
def test_every_recipe_says_what_it_answers_and_takes(recipe: Recipe) -> None:
    assert recipe.title
    assert recipe.answers.endswith(".")
    used = {name for name in (each.name for each in recipe.parameters) if f"${name}" in recipe.cypher}
    assert used == {each.name for each in recipe.parameters}


def test_the_profile_counts_what_the_user_did(shop_graph: Graph, shop: Tables) -> None:
    rows = run(shop_graph, "user_profile", "user=user-001", "limit=1000")
    done = Counter()
    for row in rows:
        done[row["did"]] += row["times"]
    events = [row for row in shop.interactions.to_pylist() if row["user_id"] == "user-001"]
    assert sum(done.values()) == len(events)
    assert done["PURCHASED"] == sum(row["type"] == "purchase" for row in events)


def test_products_nobody_bought_are_those_without_purchases(shop_graph: Graph, shop: Tables) -> None:
    bought = {row["product_id"] for row in shop.interactions.to_pylist() if row["type"] == "purchase"}
    expected = set(shop.products["product_id"].to_pylist()) - bought | {"unsold"}
    assert {row["product"] for row in run(shop_graph, "never_bought", "limit=1000")} == expected


def test_twins_are_the_products_whose_vectors_point_the_same_way(shop_graph: Graph) -> None:
    rows = run(shop_graph, "twins", "product=beans-001", "limit=5")
    assert {row["brand"] for row in rows} == {"Northwind"}
    assert all(row["cosine"] == pytest.approx(1.0) for row in rows)


def test_recommendations_come_in_rank_order_from_the_active_model(shop_graph: Graph) -> None:
    rows = run(shop_graph, "recommended", "user=user-001")
    assert [(row["rank"], row["product"]) for row in rows] == [(1, "cups-053"), (2, "tea-021")]


def test_neighbour_brands_share_the_buyers_they_are_said_to_share(shop_graph: Graph, shop: Tables) -> None:
    brand_of = dict(zip(shop.products["product_id"].to_pylist(), shop.products["brand"].to_pylist(), strict=True))
    buyers: dict[str, set[str]] = defaultdict(set)
    for row in shop.interactions.to_pylist():
        if row["type"] == "purchase":
            buyers[brand_of[row["product_id"]]].add(row["user_id"])
    rows = run(shop_graph, "brand_neighbours", "brand=Northwind")
    assert {row["brand"]: row["shared_buyers"] for row in rows} == {
        brand: len(users & buyers["Northwind"]) for brand, users in buyers.items() if brand != "Northwind"
    }


def test_those_to_tell_never_bought_the_product(shop_graph: Graph, shop: Tables) -> None:
    buyers = {
        row["user_id"]
        for row in shop.interactions.to_pylist()
        if row["type"] == "purchase" and row["product_id"] == "beans-001"
    }
    told = {row["user"] for row in run(shop_graph, "who_to_tell", "product=beans-001", "limit=1000")}
    assert told
    assert not told & buyers


def test_seasons_add_up_to_all_purchases(shop_graph: Graph, shop: Tables) -> None:
    total = sum(kind == "purchase" for kind in shop.interactions["type"].to_pylist())
    rows = run(shop_graph, "seasonality")
    for by in ("weekday", "month"):
        assert sum(row["purchases"] for row in rows if row["by"] == by) == total


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        ([], "needs user"),
        (["user=u", "colour=red"], "no parameter"),
        (["user"], "takes KEY=VALUE, not 'user'\nIt takes: user=VALUE limit=15"),
        (["user=u", "limit=many"], "can't be"),
        (["user=u", "limit=-1"], "limit can't be -1\nGive a whole number from 0"),
    ],
)
def test_a_wrong_parameter_is_one_clear_error(assignments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_recipe("user_profile").bind(assignments)


def test_what_reads_a_published_model_says_that_it_needs_one() -> None:
    reading = {each.name for each in load_recipes() if "ModelVersion" in each.cypher or VECTOR_INDEX in each.cypher}
    assert reading == {"recommended", "twins"} == {each.name for each in load_recipes() if each.needs_publish}


def test_an_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("soup")
    assert "user_profile" in caught.value.remedy
