"""What the shop's rules come to for a catalogue, and which of them hold when."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kg.extending import extended
from kg.freeze import freeze
from kg.rules import Action, Rule, Target
from kg.tables import FACTS
from server.filters import CatalogueFilters
from server.rulebook import MOST_LEVELS, RuleBook, effect_of
from tests.server.shop import NO_CHANGE, Shop, tables


def rule(action: Action, target: Target, name: str, **more: object) -> Rule:
    return Rule(f"{action}-{name}", action, target, name, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "levels"), [(1, 2), (MOST_LEVELS - 1, MOST_LEVELS), (MOST_LEVELS, 0)])
def test_no_masks_are_made_of_more_levels_than_are_ranked_one_by_one(shop: Shop, count: int, levels: int) -> None:
    rules = [rule(Action.BOOST, Target.PRODUCT, f"product-{each:02}", strength=1.0 + each) for each in range(count)]
    effect = effect_of(rules, shop.snapshot, CatalogueFilters(shop.snapshot))
    assert len(effect.levels) == levels
    assert effect.lift is not None
    assert np.count_nonzero(effect.lift) == count


def test_what_lifts_all_alike_is_one_level(shop: Shop) -> None:
    everything = rule(Action.BOOST, Target.CATEGORY, "Things", strength=2.0)
    assert len(effect_of([everything], shop.snapshot, CatalogueFilters(shop.snapshot)).levels) == 1


def test_a_pin_whose_products_were_all_taken_out_leaves_its_place_to_the_next(shop: Shop) -> None:
    of_acme = tuple(f"product-{number:02}" for number in range(0, 90, 3))
    left = extended(shop.snapshot, replace(NO_CHANGE, deleted=of_acme)).snapshot
    pins = [Rule("a", Action.PIN, Target.BRAND, "Acme"), Rule("b", Action.PIN, Target.PRODUCT, "product-01")]
    effect = effect_of([*pins, rule(Action.BOOST, Target.CATEGORY, "Things")], left, CatalogueFilters(left))
    assert [(pin.position, np.flatnonzero(pin.among).tolist()) for pin in effect.pins] == [(1, [1])]
    assert effect.lift is not None
    assert np.count_nonzero(effect.lift) == 60


def test_a_thousand_rules_of_one_brand_cost_what_one_does(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[str] = []
    of_brand = CatalogueFilters.products_of_brand

    def noted(filters: CatalogueFilters, brand: str) -> object:
        looked_for.append(brand)
        return of_brand(filters, brand)

    monkeypatch.setattr(CatalogueFilters, "products_of_brand", noted)  # the real one, and how often it was called
    boosts = [Rule(f"{each:04}", Action.BOOST, Target.BRAND, "Acme", strength=0.1) for each in range(999)]
    rules = [*boosts, Rule("less", Action.BURY, Target.BRAND, "Acme", strength=9.9)]
    effect = effect_of(rules, shop.snapshot, CatalogueFilters(shop.snapshot))
    assert looked_for == ["Acme"]
    assert effect.lift is not None
    assert effect.lift[:3].tolist() == pytest.approx([90, 0, 0])


def test_tenths_add_up_to_nothing_where_they_do_on_paper(shop: Shop) -> None:
    rules = [
        rule(Action.BOOST, Target.BRAND, "Acme", strength=0.1),
        rule(Action.BOOST, Target.CATEGORY, "Things", strength=0.2),
        rule(Action.BURY, Target.PRODUCT, "product-00", strength=0.3),
    ]
    effect = effect_of(rules, shop.snapshot, CatalogueFilters(shop.snapshot))
    assert effect.lift is not None
    assert effect.lift[0] == 0
    assert len(effect.levels) == 3


def test_which_rules_hold_is_looked_at_again_when_one_begins_or_ends() -> None:
    always = rule(Action.BLOCK, Target.BRAND, "Acme")
    sale = rule(Action.BOOST, Target.BRAND, "Bolt", start_ms=100, end_ms=200)
    never = rule(Action.BOOST, Target.BRAND, "Cora", start_ms=150, end_ms=150)
    book = RuleBook([always, sale, never])
    assert book.in_force(99) == (always,)
    assert book.in_force(100) == (always, sale)
    assert book.in_force(100) is book.in_force(149) is book.in_force(150) is book.in_force(199)
    assert book.in_force(200) is book.in_force(1 << 60)
    assert book.in_force(200) == (always,)
    assert book.in_force(150) == (always, sale)  # the clock may go back
    book.replace([sale])
    assert book.in_force(150) == (sale,)


class Reader:
    """Keeps the rules that it was told to prepare."""

    def __init__(self) -> None:
        self.prepared: list[tuple[Rule, ...]] = []

    def prepare(self, rules: tuple[Rule, ...]) -> None:
        """Keep rules."""
        self.prepared.append(rules)


def test_who_comes_while_rules_are_prepared_prepares_them_too() -> None:
    book, rules = RuleBook(), (rule(Action.BLOCK, Target.BRAND, "Acme"),)
    before, between, after = Reader(), Reader(), Reader()
    book.read_by(before)
    book.prepare(rules, 0)
    book.read_by(between)
    book.replace(rules)
    book.read_by(after)
    assert (before.prepared, between.prepared, after.prepared) == ([rules], [rules], [])


def test_what_facts_join_to_a_brand_or_category_is_of_it() -> None:
    facts = [
        {"head": "product-01", "relation": "HAS_BRAND", "tail": "Acme", "head_kind": "product", "tail_kind": "brand"},
        {
            "head": "product-02",
            "relation": "IN_CATEGORY",
            "tail": "Odd",
            "head_kind": "product",
            "tail_kind": "category",
        },
    ]
    told = freeze(replace(tables(), facts=pa.Table.from_pylist(facts, FACTS)))
    filters = CatalogueFilters(told)
    for brand in ("Acme", "Bolt", "ghost"):
        assert set(filters.products_of_brand(brand)) == set(np.flatnonzero(filters.of_brands([brand])))
    for path in ("Things", "Things > Kind 3", "Odd", "ghost"):
        assert set(filters.products_in_category(path)) == set(np.flatnonzero(filters.in_categories([path])))
    blocks = [rule(Action.BLOCK, Target.BRAND, "Acme"), rule(Action.BLOCK, Target.CATEGORY, "Odd")]
    effect = effect_of(blocks, told, filters)
    assert effect.blocked_index.tolist() == sorted({1, 2, *range(0, 90, 3)})


def test_what_the_catalogue_lacks_is_passed_over(shop: Shop) -> None:
    rules = [
        rule(Action.PIN, Target.PRODUCT, "ghost"),
        rule(Action.BLOCK, Target.BRAND, "ghost"),
        rule(Action.BOOST, Target.CATEGORY, "ghost"),
    ]
    effect = effect_of(rules, shop.snapshot, CatalogueFilters(shop.snapshot))
    assert effect.lift is None
    assert not len(effect.blocked_index)
    assert not effect.pins
    pinned = [Rule("b", Action.PIN, Target.PRODUCT, "product-01"), Rule("a", Action.PIN, Target.PRODUCT, "product-02")]
    pins = effect_of(pinned, shop.snapshot, CatalogueFilters(shop.snapshot)).pins
    assert [(pin.position, np.flatnonzero(pin.among).tolist()) for pin in pins] == [(1, [2])]
    lifted = effect_of(
        [rule(Action.BOOST, Target.BRAND, "Acme", strength=2.0), rule(Action.BURY, Target.PRODUCT, "product-03")],
        shop.snapshot,
        CatalogueFilters(shop.snapshot),
    )
    assert lifted.lift is not None
    assert lifted.lift[:4].tolist() == [2, 0, 0, 1]
    assert np.sum([level for level in lifted.levels if level is not None], axis=0).tolist() == [1] * 90
