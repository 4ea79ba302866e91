"""The shop's rules in force, and what they come to for one catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kg.rules import Action, Rule, Target
from kg.snapshot import Snapshot
from kg.vocabulary import MISSING
from server.filters import CatalogueFilters

MOST_LEVELS = 8
"""So many lifts are ranked one by one; of more, every product's score is looked at."""

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pin:
    """A place, from 1, and the products of which one stands there: the one that suits the user best.

    Args:
        position: the place.
        among: `[P]` the products.
    """

    position: int
    among: Bools


@dataclass(frozen=True)
class Effect:
    """What some rules do to the products of a catalogue.

    Args:
        lift: `[P]` in standard deviations of a user's scores; None where nothing is lifted or lowered.
        levels: masks `[P]`, each of the products that are lifted alike; one None where all are, and none at all where
            there are more than `MOST_LEVELS` of them.
        blocked_index: what is left out.
        pins: by position; among rules for one position the one of the smallest id.
    """

    lift: Float32s | None = None
    levels: tuple[Bools | None, ...] = (None,)
    blocked_index: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    pins: tuple[Pin, ...] = ()


NO_EFFECT = Effect()


class RuleBook:
    """Rules that follow each other; reading is safe from any thread.

    `rules` is replaced in whole, so that a batch of questions sees one set of them. While they are `awaited`, nobody
    knows yet what the shop blocks.
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.awaited = False

    def replace(self, rules: Sequence[Rule]) -> None:
        """Let other rules hold from now on."""
        self.rules, self.awaited = tuple(rules), False

    def in_force(self, now_ms: int) -> tuple[Rule, ...]:
        """Return the rules that hold at a moment, by id."""
        return tuple(rule for rule in self.rules if rule.holds_at(now_ms))


def effect_of(rules: Sequence[Rule], snapshot: Snapshot, filters: CatalogueFilters) -> Effect:
    """Return what rules come to; a product that several lift or lower gets the sum.

    What the catalogue does not have is passed over: it may join while the rule holds.
    """
    lift = np.zeros(len(snapshot.products), np.float32)
    blocked = np.zeros(len(snapshot.products), np.bool_)
    pins: dict[int, Int64s] = {}
    named: set[str] = set()
    for rule in sorted(rules, key=lambda each: each.rule_id):
        products = _products(rule, snapshot, filters)
        if rule.action is Action.PIN:
            again = rule.target is Target.PRODUCT and rule.name in named
            if len(products) and rule.position not in pins and not again:
                pins[rule.position] = products
                named |= {rule.name} if rule.target is Target.PRODUCT else set()
        elif rule.action is Action.BLOCK:
            blocked[products] = True
        else:
            lift[products] += rule.strength if rule.action is Action.BOOST else -rule.strength
    levels: tuple[Bools | None, ...] = (None,)
    lifted = bool(lift.any())
    if lifted:
        strengths = np.unique(lift)
        levels = tuple(lift == level for level in strengths) if len(strengths) <= MOST_LEVELS else ()
    return Effect(
        lift if lifted else None,
        levels,
        np.flatnonzero(blocked),
        tuple(Pin(position, _mask(pins[position], len(lift))) for position in sorted(pins)),
    )


def _products(rule: Rule, snapshot: Snapshot, filters: CatalogueFilters) -> Int64s:
    """Return the products that a rule is about, of those that the catalogue still has."""
    if rule.target is Target.PRODUCT:
        product_index = snapshot.products.index(rule.name)
        return np.array([] if product_index == MISSING else [product_index], np.int64)
    of_brand = rule.target is Target.BRAND
    found = np.flatnonzero(filters.of_brands([rule.name]) if of_brand else filters.in_categories([rule.name]))
    return found[~np.isin(found, snapshot.products.taken_out)]


def _mask(products: Int64s, count: int) -> Bools:
    mask = np.zeros(count, np.bool_)
    mask[products] = True
    return mask
