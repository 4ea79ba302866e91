"""How many people had one product and later another: counted in the plainest way, or drawn where that takes long."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kg import people
from kg.people import FEWEST, Followed, People
from kg.reason import PEOPLE_NODE, USER_NODE, AtLeast, Hop, Node, Path
from kg.snapshot import Histories
from kg.tables import CODES, InteractionType
from kg.wording import CHINESE, ENGLISH, Wording

BOUGHT = CODES[InteractionType.PURCHASE]
X, P, OTHER = 0, 1, 2


def histories(had: list[list[tuple[int, int]]]) -> Histories:
    """Return what each user did, oldest first: a product, and the type's code."""
    product, code = np.array([each for user in had for each in user], np.int64).reshape(-1, 2).T
    offsets = np.cumsum([0, *map(len, had)])
    return Histories(
        offsets, product.astype(np.int32), code.astype(np.int8), np.arange(len(product)), np.full(len(product), np.nan)
    )


def bought(had: list[list[int]]) -> Histories:
    return histories([[(product, BOUGHT) for product in user] for user in had])


def followed(of: Histories, *, user_index: int = -1) -> list[Followed]:
    return People(of, 3).followed(P, np.array([X, OTHER], np.int32), user_index)


def counted(had: list[list[tuple[int, int]]], first: int, then: int, left_out: int) -> int:
    """Return how many people did the same thing with a product, first, and with another, last; of the most common."""
    ways: Counter[tuple[int, int]] = Counter()
    for user, done in enumerate(had):
        last = max((at for at, (product, _) in enumerate(done) if product == then), default=-1)
        before = [code for product, code in done[: max(last, 0)] if product == first]
        if before and user != left_out:
            ways[before[0], done[last][1]] += 1
    return max(ways.values(), default=0)


def bought_at(had: list[list[tuple[int, int]]]) -> Histories:
    """Return what each user bought, oldest first: a product, and when."""
    made = bought([[product for product, _ in user] for user in had])
    return replace(made, at_ms=np.array([at for user in had for _, at in user], np.int64))


@pytest.mark.parametrize(
    ("later", "at_once", "told"),
    [(0, 5, (5, True)), (4, 4, (4, False)), (3, 4, (7, True)), (2, 2, (4, True)), (2, 0, None), (1, 1, None)],
)
def test_those_who_had_both_at_the_same_moment_did_not_go_on(
    later: int, at_once: int, told: tuple[int, bool] | None
) -> None:
    went_on, basket, before = [(X, 1), (P, 2)], [(P, 1), (X, 1)], [(P, 1), (X, 2)]
    found = followed(bought_at([went_on] * later + [basket] * at_once + [before] * 9))
    assert [(each.people, each.at_once) for each in found] == ([told] if told else [])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_people_are_as_many_as_counting_finds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    users, products = int(generator.integers(1, 60)), int(generator.integers(2, 6))
    had = [
        [(int(generator.integers(products)), int(generator.integers(2))) for _ in range(generator.integers(0, 8))]
        for _ in range(users)
    ]
    left_out = int(generator.integers(-1, users))
    found = People(histories(had), products)
    for candidate in range(products):
        earlier = np.setdiff1d(np.arange(products, dtype=np.int32), candidate)
        told = {each.product_index: each for each in found.followed(candidate, earlier, left_out)}
        many = {product: counted(had, product, candidate, left_out) for product in earlier.tolist()}
        assert {product: each.people for product, each in told.items()} == {
            product: number for product, number in many.items() if number >= FEWEST
        }
        assert not any(isinstance(each.people, AtLeast) for each in told.values())


def test_of_a_popular_product_everybody_counts() -> None:
    (told,) = followed(bought([[X, P]] * 2000))
    assert (told.product_index, told.people, told.before, told.after) == (X, 2000, BOUGHT, BOUGHT)
    assert told.weight == pytest.approx(1)
    assert not isinstance(told.people, AtLeast)


def test_the_people_of_long_histories_count() -> None:
    (told,) = followed(bought([[X, *[3] * 200, P]] * 400))
    assert told.people == 400


@pytest.mark.parametrize("those", [range(3), range(997, 1000), (0, 500, 999)])
def test_a_few_people_are_found_wherever_they_stand(those: range | tuple[int, ...]) -> None:
    (told,) = followed(bought([[X, P] if user in those else [P] for user in range(1000)]))
    assert told.people == 3
    assert told.weight == pytest.approx(3 / (3 * 1000) ** 0.5)


def test_having_a_product_again_makes_nobody_two_people() -> None:
    (told,) = followed(bought([[X, X, P, P]] * 5))
    assert told.people == 5
    assert told.weight == pytest.approx(1)


@pytest.mark.parametrize("before", [range(3000), range(3000, 6000), range(0, 6000, 2)])
def test_where_not_all_can_be_looked_up_those_found_are_told_as_the_least(
    monkeypatch: pytest.MonkeyPatch, before: range
) -> None:
    monkeypatch.setattr(people, "_MOST_LOOKUPS", 700)
    # Everybody had both, half of them in this order.
    (told,) = followed(bought([[X, P] if user in before else [P, X] for user in range(6000)]))
    assert isinstance(told.people, AtLeast)
    assert told.people == pytest.approx(350, abs=40)
    assert told.weight == pytest.approx(0.5, abs=0.06)


def test_a_product_of_few_is_looked_up_among_the_many_who_had_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "_MOST_LOOKUPS", 100)
    for had, product_index in (([[X, P]] * 40 + [[P]] * 5000, X), ([[OTHER, P]] * 40 + [[OTHER]] * 5000, OTHER)):
        (told,) = followed(bought(had))
        assert (told.product_index, told.people) == (product_index, 40)
        assert not isinstance(told.people, AtLeast)


def test_a_product_that_came_after_the_snapshot_has_no_people() -> None:
    found = People(bought([[X, P]] * 5), 2)
    assert found.followed(7, np.array([X], np.int32), -1) == []
    assert [each.product_index for each in found.followed(P, np.array([X, 7], np.int32), -1)] == [X]
    assert People(bought([]), 2).followed(P, np.array([X], np.int32), -1) == []


@pytest.mark.parametrize(
    ("wording", "number", "text"),
    [
        (ENGLISH, 12, "You bought Beans; 12 people who bought it went on to buy this"),
        (ENGLISH, AtLeast(320), "You bought Beans; at least 320 people who bought it went on to buy this"),
        (CHINESE, 12, "您买过「Beans」；有 12 位买过它的顾客后来买了本商品"),
        (CHINESE, AtLeast(320), "您买过「Beans」；有至少 320 位买过它的顾客后来买了本商品"),
    ],
)
def test_the_sentence_tells_whether_everybody_was_counted(wording: Wording, number: int, text: str) -> None:
    hops = (
        Hop("PURCHASED", True, USER_NODE, X, 1.0),
        Hop("PURCHASED", False, PEOPLE_NODE, X, 1.0),
        Hop("PURCHASED", True, PEOPLE_NODE, P, 1.0),
    )
    nodes = [
        Node("user", "", "you"),
        Node("product", "b", "Beans"),
        Node("user", "", "people"),
        Node("product", "p", "P"),
    ]
    assert wording.sentence([Path((USER_NODE, X, PEOPLE_NODE, P), hops, 1.0, number)], [nodes], 1) == text
