"""Which products come into question, where more fit alike than are looked at, or caps pass over the best."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kg.freeze import freeze
from kg.rules import Action, Rule, Target
from kg.tables import INTERACTIONS, PRODUCTS, Tables
from model.retrieval import ProductIndex
from model.scoring import GRAPH, NEWCOMER, POPULARITY, QUERY, TEXT, UserVectors
from server import selection
from server.listing import FEW_USERS
from server.question import Filter, Mix, Question, Ranking
from server.rulebook import Effect, RuleBook, effect_of
from server.search.finder import BEST_BY_MEANING, BEST_BY_WORDS, Finder
from server.search.meaning import MeaningIndex
from server.search.words import WordIndex
from server.selection import Selection

NOTHING = np.empty(0, np.int64)
MANY = BEST_BY_WORDS + 500
"""More than are looked at."""


class Stand:
    """A catalogue `p0000`, `p0001` and so on, of which the model prefers the first, and what asks it.

    Args:
        titles: of the products.
        brands: of the products.
        known: how many of the first are known to users; the others are new.
        rules: the shop's.
    """

    def __init__(
        self, titles: Sequence[str], brands: Sequence[str] = (), known: int = 0, rules: Sequence[Rule] = ()
    ) -> None:
        count = len(titles)
        products = [
            {"product_id": f"p{number:04}", "title": title, "description": "", "category": [], "attributes": []}
            | {"brand": brands[number] if brands else ""}
            for number, title in enumerate(titles)
        ]
        bought = [
            {"user_id": f"u{user}", "product_id": f"p{number:04}", "type": "purchase", "at_ms": number, "value": 1.0}
            | {"position": number * FEW_USERS + user, "event_id": f"e{number}-{user}"}
            for number in range(known)
            for user in range(FEW_USERS)
        ]
        snapshot = freeze(
            Tables(
                interactions=pa.Table.from_pylist(bought, INTERACTIONS),
                products=pa.Table.from_pylist(products, PRODUCTS),
            )
        )
        assert snapshot.products.array.to_pylist() == [each["product_id"] for each in products]
        rows = torch.stack([torch.linspace(1, 0, count), torch.ones(count)], dim=1)
        blocks = {GRAPH: slice(0, 1), TEXT: slice(1, 2), POPULARITY: slice(2, 2), NEWCOMER: slice(2, 2)}
        scorer: Any = SimpleNamespace(matrix=rows, blocks=blocks)
        index = ProductIndex.build(scorer, user())
        finder = Finder(WordIndex.build(snapshot), None, None)
        self.book = RuleBook(rules)
        self.selection = Selection(snapshot, scorer, index, finder, self.book)

    def asked(self, question: Question, taste: float = 1.0) -> Ranking:
        """Answer a question for a user who likes the first products, or with a taste below 0 the last."""
        if question.query:
            question = replace(question, fit=self.selection.find([question])[0])
        candidates = None if question.candidates is None else np.array([int(each[1:]) for each in question.candidates])
        return self.selection.rank(question, user(taste), candidates, NOTHING)


def user(taste: float = 1.0) -> UserVectors:
    nothing = np.empty(0, np.float32)
    return UserVectors(torch.tensor([[taste, 0.0]]), np.zeros(2, np.int64), np.empty(0, np.int32), nothing, nothing)


def search(k: int, **more: Any) -> Question:
    return Question("", k, query="lamp", only_found=True, pinned=True, **more)


@pytest.fixture(scope="module")
def alike() -> Stand:
    """More products with one and the same title than are looked at."""
    return Stand(["A lamp"] * MANY)


def test_what_fits_alike_is_in_the_order_of_the_user() -> None:
    stand = Stand(["Other"] * 300 + ["A lamp"] * 300)
    assert stand.asked(search(5), taste=-1.0).product_index.tolist() == [599, 598, 597, 596, 595]
    longer = stand.asked(search(200), taste=-1.0)
    assert longer.product_index[:5].tolist() == [599, 598, 597, 596, 595]


def test_a_filter_that_lets_many_through_changes_no_order(alike: Stand) -> None:
    filtered = alike.asked(search(5, exclude=("p0001",)))
    assert filtered.product_index.tolist() == [0, 2, 3, 4, 5]
    fits = alike.selection.find([search(5), search(5, exclude=("p0001",)), search(5, filter=Filter(brands=("None",)))])
    assert [len(fit.product_index) for fit in fits] == [BEST_BY_WORDS, BEST_BY_WORDS, 0]
    assert [fit.whole for fit in fits] == [False, False, True]


def test_what_rules_put_forward_is_found_wherever_it_stands() -> None:
    last, before = f"p{MANY - 1:04}", f"p{MANY - 2:04}"
    rules = [
        Rule("hero", Action.PIN, Target.PRODUCT, last, position=1),
        Rule("lift", Action.BOOST, Target.PRODUCT, before, strength=10),
        Rule("not found", Action.PIN, Target.PRODUCT, "p0000", position=2),
    ]
    stand = Stand(["A chair"] + ["A lamp"] * (MANY - 1), rules=rules)
    found = stand.asked(search(3)).product_index.tolist()
    assert found == [MANY - 1, MANY - 2, 1]
    assert stand.asked(search(3, exclude=(last,))).product_index.tolist() == [MANY - 2, 1, 2]


def test_a_pin_beyond_the_list_takes_nothing_from_the_places_in_it() -> None:
    rules = [
        Rule("best of the brand", Action.PIN, Target.BRAND, "Acme", position=1),
        Rule("below the list", Action.PIN, Target.PRODUCT, "p0050", position=50),
    ]
    stand = Stand(["Thing"] * 100, ["Other"] * 50 + ["Acme"] * 50, rules=rules)
    shorter = stand.asked(Question("", 49, pinned=True)).product_index
    assert shorter.tolist() == [50, *range(48)]
    assert stand.asked(Question("", 49, pinned=True, mix=Mix(diversity=0.01))).product_index[0] == 50
    assert stand.asked(Question("", 50, pinned=True)).product_index.tolist() == [51, *range(48), 50]


def test_of_two_pins_of_one_product_the_one_that_is_in_the_list_holds() -> None:
    rules = [
        Rule("a-far", Action.PIN, Target.PRODUCT, "p0050", position=50),
        Rule("b-near", Action.PIN, Target.PRODUCT, "p0050", position=2),
        Rule("c-taken", Action.PIN, Target.PRODUCT, "p0060", position=2),
        Rule("d-next", Action.PIN, Target.PRODUCT, "p0060", position=3),
    ]
    stand = Stand(["Thing"] * 100, rules=rules)
    assert stand.asked(Question("", 1, pinned=True)).product_index.tolist() == [0]
    assert stand.asked(Question("", 5, pinned=True)).product_index.tolist() == [0, 50, 60, 1, 2]
    longer = stand.asked(Question("", 60, pinned=True)).product_index.tolist()
    assert longer == [0, 50, 60, *range(1, 50), *range(51, 59)]


def test_a_list_is_sorted_by_score_to_the_last_digit_whatever_is_mixed() -> None:
    rules = [
        Rule("lift", Action.BOOST, Target.BRAND, "Acme", strength=0.7),
        Rule("one", Action.PIN, Target.PRODUCT, "p0250", position=3),
        Rule("some", Action.PIN, Target.BRAND, "Bolt", position=7),
    ]
    stand = Stand(["Thing"] * 300, ["Acme", "Bolt", "Cora"] * 100, known=100, rules=rules)
    for taste in np.arange(3.7, 140, 1.37).tolist():
        for mix in (Mix(), Mix(exploration_share=0.3), Mix(diversity=0.3), Mix(max_per_brand=4, exploration_share=0.3)):
            listed = stand.asked(Question("", 20, pinned=True, mix=mix), taste)
            assert (np.diff(listed.score) <= 0).all()
            np.testing.assert_allclose(np.stack(list(listed.parts.values())).sum(0), listed.score, rtol=1e-5, atol=1e-4)


def test_a_product_has_the_same_fit_in_a_list_and_by_itself(alike: Stand) -> None:
    last = MANY - 1
    listed = alike.asked(Question("", 3, query="lamp"), taste=-1.0)
    alone = alike.asked(Question("", 1, query="lamp", candidates=(f"p{last:04}",), by_rules=False), taste=-1.0)
    ranked = alike.asked(Question("", None, query="lamp", candidates=("p0000", f"p{last:04}")), taste=-1.0)
    for each in (listed, alone, ranked):
        assert each.product_index[0] == last
        assert each.parts[QUERY][0] == listed.parts[QUERY][0] > 0
        assert each.score[0] == listed.score[0]


def test_what_rules_come_to_is_known_before_a_question_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out_in: list[str] = []

    def noted(*given: Any) -> Effect:
        worked_out_in.append(threading.current_thread().name)
        return effect_of(*given)

    monkeypatch.setattr(selection, "effect_of", noted)  # the real one, and who has called it
    now_ms = time.time_ns() // 1_000_000
    rules = [Rule(f"{number}", Action.BOOST, Target.BRAND, "Acme", strength=0.5) for number in range(3)]
    with ThreadPoolExecutor(1, "aside") as aside:
        stand = aside.submit(Stand, ["Thing"] * 4, ["Acme", "Bolt"] * 2, rules=rules).result()
        before = stand.selection.effect()
        assert before.lift is not None
        assert before.lift.tolist() == [1.5, 0, 1.5, 0]
        others = (*rules, Rule("later", Action.BLOCK, Target.PRODUCT, "p0001", start_ms=now_ms + 3_600_000))
        aside.submit(stand.book.prepare, others[1:], now_ms).result()
        assert stand.selection.effect() is before  # until they are in force
        stand.book.replace(others[1:])
        after = stand.selection.effect()
        assert after.lift is not None
        assert after.lift.tolist() == [1, 0, 1, 0]
        # What is not in force yet changes nothing: answers that are kept go on.
        stand.book.replace(others[1:3])
        assert stand.selection.effect() is after
    assert worked_out_in == ["aside_0"] * 2


def test_a_search_goes_deeper_where_caps_pass_over_what_it_found() -> None:
    few = 20
    # What has the word three times in three fits better; all of that is of one brand.
    titles = ["lamp lamp lamp"] * MANY + ["a lamp of some other make"] * few
    stand = Stand(titles, ["Acme"] * MANY + [f"Brand {number}" for number in range(few)])
    assert stand.asked(search(5, mix=Mix(max_per_brand=1))).product_index.tolist() == [0, *range(MANY, MANY + 4)]
    # There are no more than these, however many are asked for.
    longer = stand.asked(search(100, mix=Mix(max_per_brand=1)))
    assert longer.product_index.tolist() == [0, *range(MANY, MANY + few)]


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_new_products_take_their_share_and_no_more_where_caps_hold(share: float) -> None:
    # The best 300 are of one brand, each of the others has its own; the last hundred are new.
    brands = ["Acme"] * 300 + [f"Brand {number}" for number in range(300)]
    stand = Stand(["Thing"] * 600, brands, known=500)
    new = round(10 * share)
    expected = {0, *range(300, 309 - new), *range(500, 500 + new)}
    question = Question("", 10, mix=Mix(max_per_brand=1, exploration_share=share))
    similar = stand.selection.similar(question, user(), None, NOTHING)
    for listed in (stand.asked(question), similar):
        assert set(listed.product_index.tolist()) == expected
        assert (np.diff(listed.score) <= 1e-6).all()


def test_all_that_are_as_near_by_meaning_as_the_last_come_into_question() -> None:
    kinds = torch.nn.functional.normalize(torch.randn((50, 16), generator=torch.Generator().manual_seed(2)), dim=1)
    matrix = kinds[torch.arange(1500) % 5]  # three hundred of each of five
    words = Stand(["Thing"] * 1500).selection.finder
    assert words is not None
    finder = Finder(words.words, MeaningIndex(matrix, slice(0, 16)), None)
    near, whole = finder._near(kinds[3].numpy(), BEST_BY_MEANING, None)
    assert set(np.arange(3, 1500, 5).tolist()) <= set(near.tolist())
    cosine = (kinds[:5] @ kinds[3]).numpy()
    assert whole == (np.sort(cosine)[-2] < 0.3)
    assert set(near.tolist()) == set(np.arange(3, 1500, 5).tolist())
