"""Reasons: known answers in a small shop, and every hop of every reason exists."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.freeze import freeze
from kg.paths import USER_NODE, Reason, Reasoner
from kg.snapshot import Snapshot
from kg.tables import CODES, FACTS, PRODUCTS, InteractionType, Tables

BOUGHT = CODES[InteractionType.PURCHASE]


def shop(products: list[tuple[str, str, list[str]]], facts: list[tuple[str, str, str]]) -> Snapshot:
    """Products as (id, brand, category path) and facts between products or from a product to a `maker`."""
    rows = [
        {
            "product_id": product_id,
            "title": product_id.title(),
            "description": "",
            "brand": brand,
            "category": path,
            "price": None,
            "attributes": [("size", product_id[-1])],
        }
        for product_id, brand, path in products
    ]
    ids = {product_id for product_id, _, _ in products}
    fact_rows = [
        {
            "head": head,
            "relation": relation,
            "tail": tail,
            "head_kind": "product",
            "tail_kind": "product" if tail in ids else "maker",
        }
        for head, relation, tail in facts
    ]
    return freeze(
        Tables(
            products=pa.Table.from_pylist(rows, PRODUCTS),
            facts=pa.Table.from_pylist(fact_rows, FACTS),
        )
    )


COFFEE = shop(
    [
        ("beans1", "Alba", ["Coffee", "Beans"]),
        ("beans2", "Alba", ["Coffee", "Ground"]),
        ("cup3", "", ["Kitchen"]),
        ("filter4", "", ["Kitchen"]),
        ("lamp5", "Lux", []),
        ("mug6", "", []),
    ],
    [
        ("beans1", "ALSO_BOUGHT", "filter4"),
        ("filter4", "ALSO_BOUGHT", "cup3"),
        ("lamp5", "MADE_BY", "m1"),
        ("mug6", "MADE_BY", "m1"),
    ],
)


def reasons(snapshot: Snapshot, history: list[int], candidate: int, k: int = 3, **weights: float) -> list[Reason]:
    reasoner = Reasoner(snapshot, weights or None)
    around = reasoner.surroundings(np.array(history, np.int64), np.full(len(history), BOUGHT))
    return reasoner.reasons(around, candidate, k)


def product(snapshot: Snapshot, product_id: str) -> int:
    return snapshot.products.index(product_id)


def assert_hops_exist(snapshot: Snapshot, found: list[Reason], history: list[int], candidate: int) -> None:
    for reason in found:
        assert reason.nodes[0] == USER_NODE
        assert reason.nodes[-1] == candidate
        assert len(set(reason.nodes)) == len(reason.nodes)
        for before, after, hop in zip(reason.nodes[:-1], reason.nodes[1:], reason.hops, strict=True):
            assert (hop.head_node, hop.tail_node) == ((before, after) if hop.forward else (after, before))
            assert 0 < hop.weight <= 1
            if before == USER_NODE:
                assert hop.relation == "PURCHASED"
                assert after in history
            else:
                edges = snapshot.facts[hop.relation]
                assert ((edges.head == hop.head_node) & (edges.tail == hop.tail_node)).any()
        assert reason.weight == pytest.approx(np.prod([hop.weight for hop in reason.hops]))
    assert [reason.weight for reason in found] == sorted((reason.weight for reason in found), reverse=True)
    assert len({(reason.nodes, reason.hops) for reason in found}) == len(found)


def test_a_shared_brand_and_a_common_parent_category_are_reasons() -> None:
    history, candidate = [product(COFFEE, "beans1")], product(COFFEE, "beans2")
    found = reasons(COFFEE, history, candidate)
    assert [[hop.relation for hop in reason.hops] for reason in found] == [
        ["PURCHASED", "HAS_BRAND", "HAS_BRAND"],
        ["PURCHASED", "IN_CATEGORY", "CHILD_OF", "CHILD_OF", "IN_CATEGORY"],
    ]
    assert [hop.forward for hop in found[0].hops] == [True, True, False]
    assert [reason.text for reason in found] == [
        "You bought Beans1; it is of the same brand (Alba)",
        "You bought Beans1; both are within Coffee",
    ]


def test_a_fact_is_walked_either_way() -> None:
    beans, filters = product(COFFEE, "beans1"), product(COFFEE, "filter4")
    (forward,) = reasons(COFFEE, [beans], filters)
    (backward,) = reasons(COFFEE, [filters], beans)
    assert forward.hops[1].forward
    assert not backward.hops[1].forward
    assert forward.hops[1].head_node == backward.hops[1].head_node == beans
    assert forward.text == "You bought Beans1; people who bought it also bought this"


def test_a_product_between_is_named() -> None:
    (reason,) = reasons(COFFEE, [product(COFFEE, "beans1")], product(COFFEE, "cup3"))
    assert "Filter4, and people who bought it also bought this" in reason.text


def test_a_product_bought_before_says_how_often() -> None:
    beans = product(COFFEE, "beans1")
    (reason,) = reasons(COFFEE, [beans, beans, beans], beans)
    assert reason.nodes == (USER_NODE, beans)
    assert reason.text == "You bought it before, 3 times"


def test_only_what_was_done_last_is_counted() -> None:
    beans = product(COFFEE, "beans1")
    viewed, bought = CODES[InteractionType.VIEW], BOUGHT
    reasoner = Reasoner(COFFEE)
    around = reasoner.surroundings(np.full(4, beans), np.array([viewed, bought, viewed, bought]))
    assert reasoner.reasons(around, beans)[0].text == "You bought it before, 2 times"


def test_a_relation_of_the_data_set_is_told_by_its_name() -> None:
    (reason,) = reasons(COFFEE, [product(COFFEE, "mug6")], product(COFFEE, "lamp5"))
    assert reason.text == "You bought Mug6; it shares its made by (m1)"


def test_unlinked_products_and_empty_histories_have_no_reason() -> None:
    assert reasons(COFFEE, [product(COFFEE, "beans1")], product(COFFEE, "lamp5")) == []
    assert reasons(COFFEE, [], product(COFFEE, "lamp5")) == []


def test_a_relation_that_the_model_does_not_use_is_no_reason() -> None:
    history, candidate = [product(COFFEE, "beans1")], product(COFFEE, "beans2")
    assert [reason.hops[1].relation for reason in reasons(COFFEE, history, candidate, HAS_BRAND=0.3)] == ["HAS_BRAND"]
    assert reasons(COFFEE, history, candidate, HAS_BRAND=0.0) == []


def test_the_stronger_relation_comes_first() -> None:
    snapshot = shop([("a1", "B", ["C"]), ("a2", "B", ["C"])], [])
    for strong, weak in (("HAS_BRAND", "IN_CATEGORY"), ("IN_CATEGORY", "HAS_BRAND")):
        found = reasons(snapshot, [0], 1, **{strong: 2.0, weak: 0.5})
        assert [reason.hops[1].relation for reason in found] == [strong, weak]


def test_a_hub_does_not_hide_what_is_near() -> None:
    many = [(f"p{row:04d}", "Hub", ["All"]) for row in range(3000)]
    snapshot = shop(many, [("p0000", "BOUGHT_TOGETHER", "p2999")])
    found = reasons(snapshot, [0], 2999)
    assert [reason.hops[1].relation for reason in found] == ["BOUGHT_TOGETHER", "HAS_BRAND", "IN_CATEGORY"]
    assert_hops_exist(snapshot, found, [0], 2999)


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_every_hop_of_every_reason_exists(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(2, 30))
    brands, parents, leaves = ["", "A", "B", "C"], ["X", "Y"], ["1", "2", "3"]
    products = [
        (
            f"p{row:02d}",
            str(generator.choice(brands)),
            [str(generator.choice(parents)), str(generator.choice(leaves))][: generator.integers(0, 3)],
        )
        for row in range(size)
    ]
    ends = [name for name, _, _ in products]
    facts = [
        (str(generator.choice(ends)), str(relation), str(generator.choice([*ends, "m1", "m2"])))
        for relation in generator.choice(["ALSO_BOUGHT", "ALSO_VIEWED", "MADE_BY"], generator.integers(0, 60))
    ]
    snapshot = shop(products, facts)
    reasoner = Reasoner(snapshot)
    for _ in range(4):
        history = generator.integers(0, size, generator.integers(0, 8))
        around = reasoner.surroundings(history, np.full(len(history), BOUGHT))
        for candidate in generator.integers(0, size, 8).tolist():
            found = reasoner.reasons(around, candidate, 4)
            assert len(found) <= 4
            assert_hops_exist(snapshot, found, history.tolist(), candidate)
