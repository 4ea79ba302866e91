"""Products and facts written one by one: what the graph says after each call, and what the others are told."""

from dataclasses import replace
from typing import Any, cast

import pytest

from kg.appending import append_events
from kg.catalogue import Product, Written, as_they_are, find, page, take_out, upsert
from kg.commits import ChangeKind
from kg.extending import extended
from kg.facts import Fact, facts_about, state, withdraw
from kg.freeze import freeze
from kg.recipes import load_recipe
from kg.store import Graph
from tests.kg.small_tables import SMALL, event, same_rows, tables
from tests.kg.test_extending import named

pytestmark = pytest.mark.neo4j

POT = Product("pot", "Pot", "for tea", "Clay", ("Kitchen", "Pots"), 9.5, True, (("colour", "red"), ("size", "L")))


def noted(graph: Graph, after: int = 0) -> list[tuple[str, str]]:
    return [(str(change.kind), change.key) for change in graph.changes_since(after)]


def test_products_are_created_updated_or_left_as_they_are(graph: Graph) -> None:
    assert upsert(graph, [POT, Product("bare")]) == [Written.CREATED, Written.CREATED]
    assert upsert(graph, [POT, Product("bare", "Bare")]) == [Written.UNCHANGED, Written.UPDATED]
    stored = find(graph, ["pot", "bare", "never"])
    assert [each.product for each in stored] == [POT, Product("bare", "Bare")]
    assert stored[0].updated_at_ms is not None
    assert sorted(noted(graph)) == [("product", "bare"), ("product", "bare"), ("product", "pot")]
    links = "MATCH (:Product {id: 'pot'})-[r]->(n) RETURN type(r), coalesce(n.name, n.id) ORDER BY type(r), n.id"
    assert graph.read(links) == [
        ["HAS_ATTRIBUTE", "colour=red"],
        ["HAS_ATTRIBUTE", "size=L"],
        ["HAS_BRAND", "Clay"],
        ["IN_CATEGORY", "Pots"],
    ]


def test_only_the_fields_that_change_are_changed(graph: Graph) -> None:
    upsert(graph, [POT])
    other = Product("pot", price=1.0, available=False)
    new = Product("new", "New", price=2.0)
    assert upsert(graph, [other, new], ("price", "available")) == [Written.UPDATED, Written.CREATED]
    found = [each.product for each in find(graph, ["pot", "new"])]
    assert (found[0].price, found[0].available, found[0].title, found[0].brand) == (1.0, False, "Pot", "Clay")
    assert found[1] == new
    assert upsert(graph, [Product("pot")], ("brand", "category", "attributes")) == [Written.UPDATED]
    assert graph.read("MATCH (:Product {id: 'pot'})-[r]->() RETURN count(r)") == [[0]]


def test_a_product_taken_out_leaves_its_past_and_comes_back_whole(graph: Graph) -> None:
    graph.load(SMALL)
    assert take_out(graph, ["beans", "never"]) == ["beans"]
    assert take_out(graph, ["beans"]) == []
    assert find(graph, ["beans"]) == []
    assert [each.product.product_id for each in page(graph, "", 10)] == ["cup", "tea"]
    assert graph.read("MATCH (:Product {id: 'beans'})-[r]-() RETURN DISTINCT type(r) ORDER BY type(r)") == [
        ["PURCHASED"],
        ["RATED"],
    ]
    exported = graph.export()
    assert exported.products["product_id"].to_pylist() == ["cup", "tea"]
    assert exported.interactions["product_id"].to_pylist() == ["cup"]
    assert "beans" not in [*exported.facts["head"].to_pylist(), *exported.facts["tail"].to_pylist()]
    # An event that was on its way reaches the past, and does not bring the product back.
    late = tables(interactions=[event("late", "ann", "beans", at_ms=9_000)]).interactions
    assert append_events(graph, late, "journal", 1) == 1
    assert find(graph, ["beans"]) == []
    assert upsert(graph, [Product("beans", "Beans again")]) == [Written.CREATED]
    assert len(graph.export().interactions) == 5
    assert ("product_deleted", "beans") in noted(graph)


def test_a_file_brings_a_product_back_too(graph: Graph) -> None:
    graph.load(SMALL)
    take_out(graph, ["tea"])
    graph.load(SMALL)
    assert [each.product.product_id for each in find(graph, ["tea"])] == ["tea"]
    assert graph.read("MATCH (p:Product {id: 'tea'}) RETURN p.deleted_at") == [[None]]


def test_what_a_file_changed_is_told_to_the_servers_when_it_is_written_again(graph: Graph) -> None:
    upsert(graph, [POT, Product("bare")])
    given = tables(products=[{"product_id": "pot", "price": 7.0}, {"product_id": "bare", "price": None}])
    prices = replace(given, stated={"products": ("product_id", "price")})
    graph.load(prices)
    graph.load(tables(products=[{"product_id": "tea", "title": "Tea"}]))
    pot, before = find(graph, ["pot"])[0], graph.last_commit
    assert (pot.product.price, pot.updated_at_ms) == (7.0, None)
    # Nobody was told of the files: an upsert of the same changes nothing in the graph, and much in the servers.
    again = [pot.product, Product("bare"), Product("tea", "Tea")]
    assert upsert(graph, again) == [Written.UNCHANGED] * 3
    assert sorted(noted(graph, before)) == [("product", "pot"), ("product", "tea")]
    assert find(graph, ["pot"])[0].updated_at_ms is not None
    before = graph.last_commit
    # The same file once more changes nothing, and so does the same upsert.
    graph.load(prices)
    assert upsert(graph, again) == [Written.UNCHANGED] * 3
    assert noted(graph, before) == []


def test_products_are_listed_page_by_page_in_the_order_of_their_ids(graph: Graph) -> None:
    upsert(graph, [Product(f"p{number}") for number in (3, 1, 2)])
    assert [each.product.product_id for each in page(graph, "", 2)] == ["p1", "p2"]
    assert [each.product.product_id for each in page(graph, "p2", 2)] == ["p3"]


def none_unknown(unknown: set[str]) -> None:
    assert not unknown


def test_facts_are_stated_once_and_withdrawn(graph: Graph) -> None:
    upsert(graph, [POT, Product("cup")])
    together = Fact("BOUGHT_TOGETHER", "product", "pot", "product", "cup")
    others = [
        Fact("MADE_OF", "product", "pot", "material", "clay"),
        Fact("LIKES", "brand", "Clay", "product", "cup"),
        Fact("MEANS", "product", "pot", "attribute", "colour=red"),
    ]
    assert state(graph, [together, together, *others], none_unknown) == 4
    after = graph.last_commit
    assert state(graph, [together, *others], none_unknown) == 0
    assert noted(graph, after) == []
    assert facts_about(graph, "pot") == sorted([together, others[0], others[2]])
    assert facts_about(graph, "cup") == sorted([together, others[1]])
    assert withdraw(graph, [others[0], Fact("MADE_OF", "product", "pot", "material", "steel")]) == 1
    assert facts_about(graph, "pot") == sorted([together, others[2]])
    assert (str(ChangeKind.FACTS), "pot") in noted(graph, after)


def test_facts_about_products_that_the_catalogue_lacks_are_refused_whole(graph: Graph) -> None:
    upsert(graph, [POT, Product("gone")])
    take_out(graph, ["gone"])
    before = graph.last_commit
    told: list[set[str]] = []

    def refuse(unknown: set[str]) -> None:
        told.append(unknown)
        raise LookupError

    stated = [
        Fact("MADE_OF", "product", "pot", "material", "clay"),
        Fact("BOUGHT_TOGETHER", "product", "pot", "product", "gone"),
        Fact("X", "product", "no", "kind", "pot"),
    ]
    with pytest.raises(LookupError):
        state(graph, stated, refuse)
    assert told == [{"gone", "no"}]
    assert (facts_about(graph, "pot"), graph.last_commit) == ([], before)


@pytest.mark.parametrize(("head", "tail"), [("beans", "gone"), ("gone", "beans"), ("gone", "lost"), ("beans", "cup")])
def test_a_fact_of_a_file_is_withdrawn_though_its_product_is_outside_the_catalogue(
    graph: Graph, head: str, tail: str
) -> None:
    fact = {"head": head, "relation": "GOES_WITH", "tail": tail}
    graph.load(
        replace(SMALL, facts=tables(facts=[fact, {"head": "gone", "relation": "GOES_WITH", "tail": "tea"}]).facts)
    )
    snapshot = freeze(graph.export())
    listed = Fact("GOES_WITH", "product", head, "product", tail)
    assert [each for each in facts_about(graph, "beans") if each == listed] == [listed] * ("beans" in (head, tail))
    assert withdraw(graph, [listed]) == 1
    assert withdraw(graph, [listed]) == 0
    assert graph.export().facts["tail"].to_pylist() == ["tea"]
    changed = as_they_are(graph, sorted({change.key for change in graph.changes_since(0)}))
    if "beans" in (head, tail):
        assert named(extended(snapshot, changed).snapshot) == named(freeze(graph.export()))


def test_a_new_product_takes_the_facts_that_files_had_of_it(graph: Graph) -> None:
    graph.load(SMALL)
    upsert(graph, [Product("gone")])
    assert facts_about(graph, "gone") == [Fact("ALSO_BOUGHT", "product", "beans", "product", "gone")]
    assert graph.read("MATCH (e:Entity {kind: 'product'}) RETURN count(e)") == [[0]]


def test_what_others_read_of_a_change_makes_their_snapshot_a_new_export(graph: Graph) -> None:
    graph.load(SMALL)
    snapshot = freeze(graph.export())
    upsert(graph, [POT, Product("tea", "Green tea", brand="Clay")])
    state(graph, [Fact("BOUGHT_TOGETHER", "product", "pot", "product", "beans")], none_unknown)
    take_out(graph, ["cup"])
    keys = {change.key for change in graph.changes_since(0)}
    after = extended(snapshot, as_they_are(graph, sorted(keys))).snapshot
    catalogue, facts = named(after)
    expected_catalogue, expected_facts = named(freeze(graph.export()))
    assert catalogue == expected_catalogue
    orphaned = ("category Coffee > Cups", "CHILD_OF", "category Coffee")  # of categories without products, one may stay
    assert facts - {orphaned} == expected_facts - {orphaned}


def test_recipes_leave_out_products_that_were_taken_out(graph: Graph) -> None:
    graph.load(SMALL)
    take_out(graph, ["cup", "tea"])
    for name in ("never_bought", "cold_products", "rising_products"):
        recipe = load_recipe(name)
        found = graph.read(recipe.text, **{each.name: each.default for each in recipe.parameters})
        assert not {"cup", "tea"} & {row[0] for row in found}


def test_facts_about_a_product_do_not_name_users(graph: Graph) -> None:
    liked = {"relation": "LIKES", "tail": "beans", "tail_kind": "product"}
    people = [{"head": "ann", "head_kind": "user"}, {"head": "fans", "head_kind": "club"}]
    given = tables(products=[{"product_id": "beans"}], facts=[who | liked for who in people])
    graph.load(given)
    assert facts_about(graph, "beans") == [Fact("LIKES", "club", "fans", "product", "beans")]
    assert same_rows(graph.export(), given)


def test_a_fact_of_a_product_outside_the_catalogue_goes_alone(graph: Graph) -> None:
    gone = [
        {"relation": "ALSO_BOUGHT", "head": "gone", "tail": "Northwind", "tail_kind": "brand"},
        {"relation": "ALSO_BOUGHT", "head": "gone", "tail": "cup"},
    ]
    graph.load(replace(SMALL, facts=tables(facts=[*SMALL.facts.to_pylist(), *gone]).facts))
    before = freeze(graph.export())
    assert withdraw(graph, [Fact("ALSO_BOUGHT", "product", "gone", "brand", "Northwind")]) == 1
    after = extended(before, as_they_are(graph, [key for _, key in noted(graph)])).snapshot
    assert named(after) == named(freeze(graph.export())) != named(before)


def test_of_many_products_only_so_many_are_read_at_once(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.load(SMALL)
    asked = [
        "cup",
        *(f"never-{place}" for place in range(1_248)),
        "beans",
        *(f"gone-{place}" for place in range(1_250)),
    ]
    sizes: list[int] = []

    class Watched:
        def read(self, cypher: str, **parameters: Any) -> list[list[Any]]:
            sizes.extend(len(each) for each in parameters.values())
            return graph.read(cypher, **parameters)

    paged = as_they_are(cast(Graph, Watched()), [*asked, "cup"])
    assert max(sizes) == 1_000
    monkeypatch.setattr("kg.catalogue._AT_ONCE", len(asked))
    whole = as_they_are(graph, asked)
    assert paged.products.equals(whole.products)
    assert paged.deleted == whole.deleted
    assert set(map(str, paged.facts.to_pylist())) == set(map(str, whole.facts.to_pylist()))
    assert len(whole.facts) > 0
    assert as_they_are(graph, []).product_ids == ()
