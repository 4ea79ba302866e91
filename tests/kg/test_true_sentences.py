"""Sentences say no more than the paths: what is the same, what contains what, and what came first."""

import numpy as np
import pytest

from kg.paths import Reasoner
from kg.snapshot import Snapshot
from kg.tables import CODES, InteractionType
from kg.wording import CHINESE, ENGLISH, Wording
from tests.kg.test_paths import BOUGHT, COFFEE, bought, product, reasons, shop


def told(snapshot: Snapshot, history: str, candidate: str, wording: Wording = ENGLISH) -> list[str]:
    reasoner = Reasoner(snapshot)
    around = reasoner.surroundings(np.array([product(snapshot, history)]), np.array([BOUGHT]))
    return [reason.text for reason in reasoner.reasons(around, product(snapshot, candidate), wording=wording)]


def test_what_two_products_have_in_different_ways_is_not_the_same() -> None:
    phones = shop([("phone1", "Apple", []), ("case2", "", [])], [("case2", "FITS", "Apple")], Apple="brand")
    assert told(phones, "phone1", "case2") == [
        "You bought Phone1; it is linked (has brand) with Apple, and this is linked (fits) with Apple"
    ]
    assert told(phones, "phone1", "case2", CHINESE) == [
        "您买过「Phone1」；它与「Apple」有关联（has brand），而且本商品与「Apple」有关联（fits）"
    ]
    films = shop([("a1", "", []), ("b2", "", [])], [("a1", "HAS_ACTOR", "Clint"), ("b2", "HAS_DIRECTOR", "Clint")])
    assert told(films, "a1", "b2") == [
        "You bought A1; it is linked (has actor) with Clint, and this is linked (has director) with Clint"
    ]


def test_what_has_both_products_is_nothing_that_they_have() -> None:
    sets = shop([("a1", "", []), ("b2", "", [])], [("Set", "HAS_PART", "a1"), ("Set", "HAS_PART", "b2")])
    assert told(sets, "a1", "b2") == ["You bought A1; both are linked (has part) with Set"]


@pytest.mark.parametrize(
    "facts",
    [
        [("Maier", "COMPETES_WITH", "Huber")],  # which contains nothing
        [("c3", "SOLD_BESIDE", "Maier"), ("Maier", "CHILD_OF", "Huber")],
        [("Coffee > Beans", "COMPETES_WITH", "Tea")],
        [("a1", "SOLD_BESIDE", "Coffee > Filters"), ("c3", "SOLD_BESIDE", "Tea")],
    ],
)
def test_only_categories_contain_products(facts: list[tuple[str, str, str]]) -> None:
    kinds = {"Maier": "brand", "Huber": "brand"} | dict.fromkeys(
        ("Coffee > Beans", "Coffee > Filters", "Tea"), "category"
    )
    rows = [("a1", "Maier", ["Coffee", "Beans"]), ("b2", "Huber", ["Tea"]), ("c3", "", ["Coffee", "Filters"])]
    rest = [(f"x{number}", f"X{number}", [f"X{number}"]) for number in range(6)]
    snapshot = shop([*rows, *rest], facts, **kinds)
    assert told(snapshot, "a1", "b2") == []
    assert told(snapshot, "a1", "c3")[0].endswith("both are within Coffee")


def test_people_who_had_both_in_one_basket_did_not_go_on() -> None:
    snapshot = bought({f"u{number}": ["a0", "a1"] for number in range(4)}, apart_ms=0)
    for history, candidate in ((0, 1), (1, 0)):  # in a basket nothing is first
        (reason,) = reasons(snapshot, [history], candidate)
        assert reason.text == f"You bought A{history}; 4 people who bought it also bought this"
        assert reason.path.people == 4
    assert told(snapshot, "a0", "a1", CHINESE) == ["您买过「A0」；有 4 位买过它的顾客也买了本商品"]


def test_a_seed_is_no_second_look() -> None:
    viewed, beans = CODES[InteractionType.VIEW], product(COFFEE, "beans1")
    reasoner = Reasoner(COFFEE)
    for done, said in (([viewed, viewed], ""), ([viewed], ""), ([viewed] * 3, ", 2 times"), ([BOUGHT, viewed], "")):
        around = reasoner.surroundings(np.full(len(done), beans), np.array(done), seeds=[beans])
        assert reasoner.reasons(around, beans)[0].text == f"You looked at this before{said}"
