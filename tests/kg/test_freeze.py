"""Canonical tables to a snapshot: known answers by hand, and what must not matter."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.freeze import freeze, product_text
from kg.tables import CODES, FACTS, INTERACTIONS, PRODUCTS, USERS, InteractionType, Tables


def interaction(user: str, product: str, at_ms: int, position: int = 0, kind: str = "purchase") -> dict[str, object]:
    event_id = f"{user}/{product}/{at_ms}/{position}"
    return {
        "user_id": user,
        "product_id": product,
        "type": kind,
        "at_ms": at_ms,
        "value": 2.0,
        "position": position,
        "event_id": event_id,
    }


def product(product_id: str, **fields: object) -> dict[str, object]:
    blank = {"title": "", "description": "", "brand": "", "category": [], "price": None, "attributes": {}}
    return blank | {"product_id": product_id} | fields


def fact(head: str, relation: str, tail: str) -> dict[str, str]:
    return {"head": head, "relation": relation, "tail": tail, "head_kind": "product", "tail_kind": "product"}


def tables(
    interactions: list[dict[str, object]],
    products: list[dict[str, object]],
    facts: list[dict[str, str]] | None = None,
    users: list[dict[str, object]] | None = None,
) -> Tables:
    return Tables(
        pa.Table.from_pylist(interactions, INTERACTIONS),
        pa.Table.from_pylist(products, PRODUCTS),
        pa.Table.from_pylist(facts or [], FACTS),
        pa.Table.from_pylist(users or [], USERS),
    )


SHOP = tables(
    [
        interaction("u2", "b", 30),
        interaction("u1", "a", 20, position=1),
        interaction("u1", "b", 20, position=0, kind="view"),
        interaction("u1", "a", 10, position=2),
    ],
    [
        product("b", title="Tea", brand="Leaf", category=["Food", "Tea"], attributes={"roast": "none"}),
        product("a", title="Coffee", brand="Leaf"),
    ],
    [fact("a", "ALSO_BOUGHT", "b"), fact("a", "ALSO_BOUGHT", "b"), fact("b", "ALSO_BOUGHT", "gone")],
    [{"user_id": "u0", "attributes": {}}],
)


def test_histories_are_in_time_order_with_ties_in_file_order() -> None:
    snapshot = freeze(SHOP)
    assert snapshot.users.ids([0, 1, 2]) == ["u0", "u1", "u2"]
    assert snapshot.histories.offsets.tolist() == [0, 0, 3, 4]
    assert snapshot.products.ids(snapshot.histories.product_index) == ["a", "b", "a", "b"]
    assert snapshot.histories.at_ms.tolist() == [10, 20, 20, 30]
    assert snapshot.histories.type[1] == CODES[InteractionType.VIEW]


def test_nothing_later_than_as_of_is_in_it() -> None:
    snapshot = freeze(SHOP, as_of_ms=20)
    assert snapshot.histories.at_ms.max() == 20
    assert snapshot.users.ids([0, 1]) == ["u0", "u1"]


def test_facts_are_unique_and_outside_products_become_nodes() -> None:
    snapshot = freeze(SHOP)
    edges = snapshot.facts["ALSO_BOUGHT"]
    outside = len(snapshot.products) + snapshot.nodes["id"].to_pylist().index("gone")
    assert list(zip(edges.head.tolist(), edges.tail.tolist(), strict=True)) == [(0, 1), (1, outside)]
    assert "gone" not in snapshot.products


def test_product_columns_become_facts() -> None:
    snapshot = freeze(SHOP)
    names = dict(zip(range(2, snapshot.node_count), snapshot.nodes["name"].to_pylist(), strict=True))
    brand = snapshot.facts["HAS_BRAND"]
    assert brand.head.tolist() == [0, 1]
    assert {names[node] for node in brand.tail.tolist()} == {"Leaf"}
    assert names[int(snapshot.facts["IN_CATEGORY"].tail[0])] == "Tea"
    child_of = snapshot.facts["CHILD_OF"]
    assert (names[int(child_of.head[0])], names[int(child_of.tail[0])]) == ("Tea", "Food")
    assert names[int(snapshot.facts["HAS_ATTRIBUTE"].tail[0])] == "roast=none"


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_row_order_does_not_change_the_content_hash(random: object) -> None:
    def shuffled(table: pa.Table) -> pa.Table:
        rows = list(range(len(table)))
        random.shuffle(rows)  # type: ignore[attr-defined]  # hypothesis hands out a random.Random
        return table.take(rows)

    again = Tables(*(shuffled(table) for _, table in SHOP))
    assert freeze(again).content_hash == freeze(SHOP).content_hash


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("interactions", interaction("u1", "a", 11)),
        ("products", product("c")),
        ("facts", fact("b", "ALSO_BOUGHT", "a")),
        ("users", {"user_id": "u9", "attributes": {}}),
    ],
)
def test_any_more_row_changes_the_content_hash(name: str, row: dict[str, object]) -> None:
    parts = dict(SHOP)
    parts[name] = pa.concat_tables([parts[name], pa.Table.from_pylist([row], parts[name].schema)])
    assert freeze(Tables(**parts)).content_hash != freeze(SHOP).content_hash


def test_an_empty_shop_freezes() -> None:
    snapshot = freeze(Tables())
    assert snapshot.counts == {"users": 0, "products": 0, "nodes": 0, "interactions": 0}
    assert snapshot.histories.offsets.tolist() == [0]


def test_product_text_reads_title_brand_category_and_description() -> None:
    row = product("a", title="Tea", brand="Leaf", category=["Food", "Tea"], description="Green.")
    assert product_text(row) == "Tea. Leaf. Food > Tea. Green."
    assert product_text(product("a")) == ""


def test_taking_users_keeps_each_history_whole() -> None:
    histories = freeze(SHOP).histories
    taken = histories.take(np.array([2, 1, 1]))
    assert taken.offsets.tolist() == [0, 1, 4, 7]
    assert taken.at_ms.tolist() == [30, 10, 20, 20, 10, 20, 20]


def test_where_keeps_users_and_drops_rows() -> None:
    histories = freeze(SHOP).histories
    late = histories.where(histories.at_ms >= 20)
    assert late.offsets.tolist() == [0, 0, 2, 3]
    assert late.users_of_rows().tolist() == [1, 1, 2]


def test_availability_and_attributes_are_columns_and_what_nobody_said_is_available() -> None:
    rows = [
        product("a", available=False, attributes={"colour": "red"}),
        product("b", available=None),
        product("c", available=True),
    ]
    catalogue = freeze(tables([], rows)).catalogue
    assert catalogue["available"].to_pylist() == [False, True, True]
    assert catalogue["attributes"].to_pylist() == [[("colour", "red")], [], []]


def test_facts_about_users_are_not_in_a_snapshot() -> None:
    told = {"relation": "CURATED_BY", "head_kind": "product", "tail_kind": "user", "head": "a", "tail": "u1"}
    known = {**told, "relation": "KNOWS", "head_kind": "user", "head": "u2"}
    about = pa.concat_tables([SHOP.facts, pa.Table.from_pylist([told, known], FACTS)])
    assert freeze(replace(SHOP, facts=about)).content_hash == freeze(SHOP).content_hash
