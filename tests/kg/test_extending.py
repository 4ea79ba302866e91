"""A snapshot that goes on with the catalogue is what a new export would be, but for the order of its indices."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kg.extending import CatalogueChange, extended
from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.tables import FACTS, PRODUCTS, Tables
from kg.vocabulary import MISSING, Vocabulary
from tests.kg.small_tables import SMALL, tables

ROWS = {row["product_id"]: row for row in SMALL.products.to_pylist()}


def change(
    products: list[dict[str, Any]] = [],  # noqa: B006  # never changed
    facts: list[dict[str, str]] = [],  # noqa: B006
    deleted: tuple[str, ...] = (),
) -> CatalogueChange:
    given = tables(products=products, facts=facts)
    return CatalogueChange(given.products, given.facts, deleted)


def named(snapshot: Snapshot) -> tuple[dict[str, Any], set[tuple[str, str, str]]]:
    """Return the catalogue by id, and the facts by the names of their ends."""
    ids = snapshot.products.array.to_pylist()
    known = [product_id for product_id in ids if product_id in snapshot.products]
    catalogue = {
        product_id: snapshot.catalogue.to_pylist()[snapshot.products.index(product_id)] for product_id in known
    }
    nodes = [f"product {each}" for each in ids] + [f"{row['kind']} {row['id']}" for row in snapshot.nodes.to_pylist()]
    facts = {
        (nodes[head], relation, nodes[tail])
        for relation, edges in snapshot.facts.items()
        for head, tail in zip(edges.head.tolist(), edges.tail.tolist(), strict=True)
    }
    return catalogue, facts


def test_an_extended_snapshot_says_what_a_new_export_would() -> None:
    fact = {"relation": "ALSO_BOUGHT", "head": "cup", "tail": "pot", "head_kind": "product", "tail_kind": "product"}
    pot = {"product_id": "pot", "title": "Pot", "brand": "Clayworks", "category": ["Kitchen", "Pots"], "price": 9.0}
    after = extended(freeze(SMALL), change([pot], [fact])).snapshot
    rows = [*SMALL.products.to_pylist(), tables(products=[pot]).products.to_pylist()[0]]
    facts = [*SMALL.facts.to_pylist(), fact]
    both = Tables(
        SMALL.interactions, pa.Table.from_pylist(rows, PRODUCTS), pa.Table.from_pylist(facts, FACTS), SMALL.users
    )
    assert named(after) == named(freeze(both))
    assert after.products.index("pot") == len(ROWS)
    for edges in after.facts.values():
        keys = edges.head.astype(np.int64) * after.node_count + edges.tail
        assert (np.diff(keys) > 0).all()


def test_indices_and_histories_stay_as_they_are() -> None:
    before = freeze(SMALL)
    after = extended(before, change([{"product_id": "aaa"}], deleted=("cup",))).snapshot
    assert after.products.array.to_pylist()[: len(before.products)] == before.products.array.to_pylist()
    assert after.histories is before.histories
    assert after.content_hash == before.content_hash


def test_a_deleted_product_is_not_found_and_has_no_facts_until_it_comes_back_at_its_own_place() -> None:
    before = freeze(SMALL)
    place = before.products.index("beans")
    gone = extended(before, change(deleted=("beans", "never-there"))).snapshot
    assert "beans" not in gone.products
    assert gone.products.index("beans") == MISSING
    assert gone.products.id(place) == "beans"
    assert gone.products.taken_out.tolist() == [place]
    assert not any("product beans" in (head, tail) for head, _, tail in named(gone)[1])
    back = extended(
        gone, change([ROWS["beans"]], [each for each in SMALL.facts.to_pylist() if each["head"] == "beans"])
    )
    assert back.snapshot.products.index("beans") == place
    assert back.read_anew.tolist() == sorted([place, before.products.index("cup")])
    assert named(back.snapshot) == named(before)


def test_what_has_to_be_read_anew_is_new_text_and_new_facts_not_new_prices() -> None:
    before = freeze(SMALL)
    tea = ROWS["tea"]
    assert extended(before, change([tea | {"price": 1.0, "available": True}])).read_anew.tolist() == []
    assert extended(before, change([tea | {"title": "Green tea"}])).read_anew.tolist() == [before.products.index("tea")]
    assert extended(before, change([tea | {"brand": ""}])).read_anew.tolist() == [before.products.index("tea")]
    new = extended(before, change([{"product_id": "new"}]))
    assert new.read_anew.tolist() == [3]
    assert new.snapshot.catalogue["available"].to_pylist() == [True, True, False, True]


def test_what_became_of_a_product_before_it_was_away_is_read_when_it_comes_back() -> None:
    bare = {"product_id": "bare", "title": "old words"}
    first = extended(freeze(tables(products=[bare])), change([bare | {"title": "new words"}]))
    gone = extended(first.snapshot, change(deleted=("bare",)))
    back = extended(gone.snapshot, change([bare | {"title": "new words"}]))
    assert first.then(gone).read_anew.tolist() == []
    assert first.then(gone).then(back).read_anew.tolist() == [0]


def test_a_product_takes_over_the_facts_that_named_it_before_it_was_there() -> None:
    facts = [each for each in SMALL.facts.to_pylist() if each["tail"] == "gone"]
    after = extended(freeze(SMALL), change([{"product_id": "gone"}], facts)).snapshot
    edges = after.facts["ALSO_BOUGHT"]
    assert edges.head.tolist() == [after.products.index("beans")]
    assert edges.tail.tolist() == [after.products.index("gone")]


def test_many_changes_of_the_same_products_do_not_grow_the_snapshot() -> None:
    snapshot = extended(freeze(SMALL), change([{"product_id": "pot", "brand": "Clay"}])).snapshot
    size = snapshot.node_count, sum(len(edges) for edges in snapshot.facts.values())
    for price in range(20):
        snapshot = extended(snapshot, change([{"product_id": "pot", "brand": "Clay", "price": float(price)}])).snapshot
        snapshot = extended(snapshot, change(deleted=("pot",))).snapshot
    snapshot = extended(snapshot, change([{"product_id": "pot", "brand": "Clay"}])).snapshot
    assert (snapshot.node_count, sum(len(edges) for edges in snapshot.facts.values())) == size


@pytest.mark.parametrize("put_in", [["x", "a"], ["a", "x"]])
def test_a_vocabulary_goes_on_without_moving_an_index(put_in: list[str]) -> None:
    before = Vocabulary(["a", "b"])
    after = before.changed(put_in, ["b", "unknown"])
    assert [after.index(each) for each in "abx"] == [0, MISSING, 2]
    assert after.indices(["b", "x"]).tolist() == [MISSING, 2]
    assert (after.place("b"), before.index("b"), "x" in before) == (1, 1, False)
