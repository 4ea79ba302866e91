"""Reasons: known answers in a small shop, and every hop of every reason exists."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.freeze import freeze
from kg.paths import Reasoner
from kg.reason import PEOPLE_NODE, USER_NODE, Path, Reason
from kg.schema import RELATIONSHIP_OF
from kg.snapshot import Snapshot
from kg.tables import CODES, FACTS, INTERACTIONS, PRODUCTS, InteractionType, Tables
from kg.wording import CHINESE, ENGLISH

BOUGHT = CODES[InteractionType.PURCHASE]


def shop(products: list[tuple[str, str, list[str]]], facts: list[tuple[str, str, str]], **kinds: str) -> Snapshot:
    """Products as (id, brand, category path) and facts between them and others, of `kinds` by id or else a `maker`."""
    rows = [_row(*each) for each in products]
    kind = dict.fromkeys((product_id for product_id, _, _ in products), "product") | kinds
    fact_rows = [
        {
            "head": head,
            "relation": relation,
            "tail": tail,
            "head_kind": kind.get(head, "maker"),
            "tail_kind": kind.get(tail, "maker"),
        }
        for head, relation, tail in facts
    ]
    return freeze(
        Tables(
            products=pa.Table.from_pylist(rows, PRODUCTS),
            facts=pa.Table.from_pylist(fact_rows, FACTS),
        )
    )


def _row(product_id: str, brand: str, path: list[str]) -> dict[str, object]:
    return {
        "product_id": product_id,
        "title": product_id.title(),
        "description": "",
        "brand": brand,
        "category": path,
        "price": None,
        "attributes": [("size", product_id[-1])],
    }


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
        assert 0 <= reason.strength <= 1
        assert {path.start for path in reason.paths} == {reason.path.start}
        for path in reason.paths:
            assert_path_exists(snapshot, path, history, candidate)
    assert [reason.strength for reason in found] == sorted((reason.strength for reason in found), reverse=True)
    topics = [path.topic for reason in found for path in reason.paths]
    assert len(set(topics)) == len(topics)
    assert len({reason.text for reason in found}) == len(found)


def assert_path_exists(snapshot: Snapshot, path: Path, history: list[int], candidate: int) -> None:
    assert path.nodes[0] == USER_NODE
    assert path.nodes[-1] == candidate
    assert len(set(path.nodes)) == len(path.nodes)
    for before, after, hop in zip(path.nodes[:-1], path.nodes[1:], path.hops, strict=True):
        assert (hop.head_node, hop.tail_node) == ((before, after) if hop.forward else (after, before))
        assert 0 < hop.weight <= 1
        if before == USER_NODE:
            assert hop.relation == "PURCHASED"
            assert after in history
        elif PEOPLE_NODE not in (before, after):
            edges = snapshot.facts[hop.relation]
            assert ((edges.head == hop.head_node) & (edges.tail == hop.tail_node)).any()
    assert path.weight == pytest.approx(np.prod([hop.weight for hop in path.hops]))
    if path.people:
        assert path.people == len(those_who_had(snapshot, path.start, candidate))


def those_who_had(snapshot: Snapshot, first: int, then: int) -> list[int]:
    """Users who had one product before they last had another, counted in the plainest way."""
    users = []
    for user in range(len(snapshot.users)):
        had = snapshot.histories.product_index[snapshot.histories.rows(user)].tolist()
        if then in had and first in had[: len(had) - had[::-1].index(then) - 1]:
            users.append(user)
    return users


def relations(reason: Reason) -> list[list[str]]:
    return [[hop.relation for hop in path.hops] for path in reason.paths]


def test_a_sentence_tells_of_two_ways_from_one_product() -> None:
    history, candidate = [product(COFFEE, "beans1")], product(COFFEE, "beans2")
    (reason,) = reasons(COFFEE, history, candidate)
    assert relations(reason) == [
        ["PURCHASED", "HAS_BRAND", "HAS_BRAND"],
        ["PURCHASED", "IN_CATEGORY", "CHILD_OF", "CHILD_OF", "IN_CATEGORY"],
    ]
    assert [hop.forward for hop in reason.path.hops] == [True, True, False]
    assert reason.text == "You bought Beans1; it is of the same brand (Alba), and both are within Coffee"


def test_a_fact_is_walked_either_way_and_told_as_it_is() -> None:
    beans, filters = product(COFFEE, "beans1"), product(COFFEE, "filter4")
    (forward,) = reasons(COFFEE, [beans], filters)
    (backward,) = reasons(COFFEE, [filters], beans)
    assert forward.path.hops[1].forward
    assert not backward.path.hops[1].forward
    assert forward.path.hops[1].head_node == backward.path.hops[1].head_node == beans
    assert forward.text == "You bought Beans1; people who bought it also bought this"
    assert backward.text == "You bought Filter4; people who bought this also bought it"


def test_a_product_between_is_named() -> None:
    (reason,) = reasons(COFFEE, [product(COFFEE, "beans1")], product(COFFEE, "cup3"))
    assert reason.text == (
        "You bought Beans1; people who bought it also bought Filter4, and people who bought Filter4 also bought this"
    )


def test_a_product_bought_before_says_how_often() -> None:
    beans = product(COFFEE, "beans1")
    (reason,) = reasons(COFFEE, [beans, beans, beans], beans)
    assert reason.path.nodes == (USER_NODE, beans)
    assert reason.text == "You bought this before, 3 times"


def test_only_what_was_done_last_is_counted() -> None:
    beans = product(COFFEE, "beans1")
    viewed, bought = CODES[InteractionType.VIEW], BOUGHT
    reasoner = Reasoner(COFFEE)
    around = reasoner.surroundings(np.full(4, beans), np.array([viewed, bought, viewed, bought]))
    assert reasoner.reasons(around, beans)[0].text == "You bought this before, 2 times"


def test_a_relation_of_the_data_set_is_told_by_its_name() -> None:
    (reason,) = reasons(COFFEE, [product(COFFEE, "mug6")], product(COFFEE, "lamp5"))
    assert reason.text == "You bought Mug6; both are linked (made by) with m1"


def test_unlinked_products_and_empty_histories_have_no_reason() -> None:
    assert reasons(COFFEE, [product(COFFEE, "beans1")], product(COFFEE, "lamp5")) == []
    assert reasons(COFFEE, [], product(COFFEE, "lamp5")) == []


def test_a_relation_that_the_model_does_not_use_is_no_reason() -> None:
    history, candidate = [product(COFFEE, "beans1")], product(COFFEE, "beans2")
    (reason,) = reasons(COFFEE, history, candidate, HAS_BRAND=0.3)
    assert relations(reason) == [["PURCHASED", "HAS_BRAND", "HAS_BRAND"]]
    assert reasons(COFFEE, history, candidate, HAS_BRAND=0.0) == []


def test_the_stronger_relation_comes_first() -> None:
    snapshot = shop([("a1", "B", ["C"]), ("a2", "B", ["C"])], [])
    for strong, weak in (("HAS_BRAND", "IN_CATEGORY"), ("IN_CATEGORY", "HAS_BRAND")):
        (reason,) = reasons(snapshot, [0], 1, **{strong: 2.0, weak: 0.5})
        assert [path.hops[1].relation for path in reason.paths] == [strong, weak]


def test_a_hub_does_not_hide_what_is_near() -> None:
    many = [(f"p{row:04d}", "Hub", ["All"]) for row in range(3000)]
    snapshot = shop(many, [("p0000", "BOUGHT_TOGETHER", "p2999")])
    found = reasons(snapshot, [0], 2999)
    assert [path.hops[1].relation for path in found[0].paths] == ["BOUGHT_TOGETHER", "HAS_BRAND"]
    assert_hops_exist(snapshot, found, [0], 2999)


def test_each_sentence_is_about_another_product_and_another_thing() -> None:
    snapshot = shop(
        [("a1", "B", ["C", "D"]), ("a2", "B", ["C", "D"]), ("a3", "B", ["C", "E"]), ("a4", "B", ["C", "D"])],
        [("a2", "ALSO_BOUGHT", "a4")],
    )
    found = reasons(snapshot, [0, 1, 2], 3)
    assert len({reason.path.start for reason in found}) == len(found)
    same = [name for reason in found for name in ("same brand", "same category") if name in reason.text]
    assert sorted(same) == sorted(set(same))
    assert_hops_exist(snapshot, found, [0, 1, 2], 3)


def test_the_given_strength_decides_and_what_speaks_against_the_result_is_no_reason() -> None:
    snapshot = shop([("a1", "B", []), ("a2", "", ["C"]), ("a3", "B", ["C"])], [])
    reasoner = Reasoner(snapshot)
    around = reasoner.surroundings(np.array([0, 1]), np.full(2, BOUGHT))
    for strength, starts in (({0: 0.2, 1: 0.9}, [1, 0]), ({0: 0.9, 1: 0.2}, [0, 1]), ({0: 0.3, 1: 0.0}, [0])):
        found = reasoner.reasons(around, 2, strength=strength)
        assert [reason.path.start for reason in found] == starts
        assert [reason.strength for reason in found] == [strength[start] for start in starts]
    # Where nothing speaks for it, the paths are still true.
    assert len(reasoner.reasons(around, 2, strength={0: 0.0, 1: 0.0})) == 2


def test_what_most_products_are_within_is_no_reason() -> None:
    many = [(f"p{row}", "", ["Shop", f"Leaf{row}"]) for row in range(9)]
    assert reasons(shop(many, []), [0], 1) == []


def bought(orders: dict[str, list[str]], products: int = 4, *, apart_ms: int = 1) -> Snapshot:
    rows = [(user, product_id, at * apart_ms) for user, had in orders.items() for at, product_id in enumerate(had)]
    interactions = pa.table(
        {
            "user_id": [row[0] for row in rows],
            "product_id": [row[1] for row in rows],
            "type": ["purchase"] * len(rows),
            "at_ms": [1_700_000_000_000 + row[2] for row in rows],
            "value": pa.nulls(len(rows), pa.float32()),
            "position": list(range(len(rows))),
            "event_id": [f"e{number}" for number in range(len(rows))],
        },
        schema=INTERACTIONS,
    )
    catalogue = pa.Table.from_pylist([_row(f"a{number}", "", []) for number in range(products)], PRODUCTS)
    return freeze(Tables(products=catalogue, interactions=interactions))


def test_people_who_went_on_to_a_product_are_a_reason_without_names() -> None:
    snapshot = bought({f"u{number}": ["a0", "a1"] for number in range(4)} | {"me": ["a0"], "back": ["a1", "a0"]})
    (reason,) = reasons(snapshot, [0], 1)
    assert reason.text == "You bought A0; 4 people who bought it went on to buy this"
    assert relations(reason) == [["PURCHASED", "PURCHASED", "PURCHASED"]]
    assert [hop.forward for hop in reason.path.hops] == [True, False, True]
    assert reason.path.nodes == (USER_NODE, 0, PEOPLE_NODE, 1)
    assert Reasoner(snapshot).node(PEOPLE_NODE).id == ""
    assert_hops_exist(snapshot, [reason], [0], 1)
    assert reasons(snapshot, [1], 0) == []  # one person is not told of


def test_who_is_forgotten_is_counted_no_more() -> None:
    snapshot = bought({f"u{number}": ["a0", "a1"] for number in range(4)})
    reasoner = Reasoner(snapshot)
    around = reasoner.surroundings(np.array([0]), np.array([BOUGHT]))
    reasoner.people.forget(0)
    assert reasoner.reasons(around, 1)[0].path.people == 3
    reasoner.people.forget(1)
    assert reasoner.reasons(around, 1) == []


def test_a_product_that_was_taken_out_is_no_beginning() -> None:
    snapshot = shop([("a1", "B", []), ("a2", "B", []), ("a3", "B", [])], [])
    without = replace(snapshot, products=snapshot.products.changed([], ["a1"]))
    assert [reason.path.start for reason in reasons(without, [0, 1], 2)] == [1]


def test_the_user_is_not_among_the_people() -> None:
    snapshot = bought({f"u{number}": ["a0", "a1"] for number in range(3)})
    reasoner = Reasoner(snapshot)
    around = reasoner.surroundings(np.array([0]), np.array([BOUGHT]), user_index=1)
    assert reasoner.reasons(around, 1) == []


def test_every_sentence_is_said_in_chinese_too() -> None:
    beans = product(COFFEE, "beans1")
    reasoner = Reasoner(COFFEE)
    around = reasoner.surroundings(np.array([beans, beans]), np.full(2, BOUGHT))

    def said(candidate: str) -> str:
        return reasoner.reasons(around, product(COFFEE, candidate), wording=CHINESE)[0].text

    assert said("beans2") == "您买过「Beans1」（2 次）；它与本商品同属一个品牌（Alba），而且两者同属「Coffee」"
    assert said("filter4") == "您买过「Beans1」（2 次）；买过它的人也买了本商品"
    assert said("cup3") == "您买过「Beans1」（2 次）；买过它的人也买了「Filter4」，而且买过「Filter4」的人也买了本商品"
    assert said("beans1") == "您以前买过本商品（2 次）"


def test_languages_have_the_same_templates() -> None:
    for name in ("did", "after", "linked", "shared"):
        assert set(getattr(ENGLISH, name)) == set(getattr(CHINESE, name))
    assert set(ENGLISH.did) == {relationship.type for relationship in RELATIONSHIP_OF.values()}


def test_a_long_name_is_cut_between_words() -> None:
    snapshot = shop([("a1", "B", []), ("a2", "B", [])], [])
    catalogue = snapshot.catalogue.set_column(0, "title", [[" ".join(["very"] * 30), "x\ny"]])
    (reason,) = reasons(replace(snapshot, catalogue=catalogue), [0], 1)
    assert reason.text == f"You bought {' '.join(['very'] * 12)}…; it is of the same brand (B)"


@settings(max_examples=150, deadline=None)
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
