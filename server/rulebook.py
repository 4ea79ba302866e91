"""The shop's rules in force, and what they come to for one catalogue."""

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
Float64s = npt.NDArray[np.float64]
_ByTarget = dict[Target, dict[str, float]]


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
        pins: by position; among rules for one position the one of the smallest id. One product is pinned once, as near
            to the top as a rule says: so a list of any length goes by those of the positions that it has.
    """

    lift: Float32s | None = None
    levels: tuple[Bools | None, ...] = (None,)
    blocked_index: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    pins: tuple[Pin, ...] = ()


NO_EFFECT = Effect()


class Reader(Protocol):
    """Who goes by the rules."""

    def prepare(self, rules: tuple[Rule, ...]) -> None:
        """Work out what rules come to that are about to be in force."""


@dataclass(frozen=True, slots=True)
class _InForce:
    """Which of `all_rules` hold from one moment until another, when one more begins or ends."""

    all_rules: tuple[Rule, ...]
    rules: tuple[Rule, ...]
    from_ms: float
    until_ms: float

    def tells_of(self, all_rules: tuple[Rule, ...], now_ms: int) -> bool:
        return self.all_rules is all_rules and self.from_ms <= now_ms < self.until_ms


class RuleBook:
    """Rules that follow each other; reading is safe from any thread.

    `rules` is replaced in whole, so that a batch of questions sees one set of them. While they are `awaited`, nobody
    knows yet what the shop blocks.
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.awaited = False
        self._in_force = self._prepared = _InForce((), (), -np.inf, -np.inf)
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()  # catalogues come and go
        self._reading = threading.Lock()

    def replace(self, rules: Sequence[Rule]) -> None:
        """Let other rules hold from now on."""
        self.rules = tuple(rules)
        if self._prepared.all_rules is self.rules:
            self._in_force = self._prepared
        self.awaited = False

    def in_force(self, now_ms: int) -> tuple[Rule, ...]:
        """Return the rules that hold at a moment: the very same tuple until others do."""
        known, all_rules = self._in_force, self.rules
        if not known.tells_of(all_rules, now_ms):
            known = self._in_force = _in_force(all_rules, now_ms, known.rules)
        return known.rules

    def read_by(self, reader: Reader) -> None:
        """Tell of somebody who goes by the rules, for as long as it is there. May be called from any thread."""
        with self._reading:
            self._readers.add(reader)
        prepared = self._prepared
        if prepared.all_rules is not self.rules:  # they were prepared before it came, and are about to be in force
            reader.prepare(prepared.rules)

    def prepare(self, rules: tuple[Rule, ...], now_ms: int) -> None:
        """Let all who go by the rules work out what others come to, before these replace them. Runs in a thread."""
        self._prepared = _in_force(rules, now_ms, self._in_force.rules)
        with self._reading:
            readers = list(self._readers)
        for reader in readers:
            reader.prepare(self._prepared.rules)


def _in_force(all_rules: tuple[Rule, ...], now_ms: int, before: tuple[Rule, ...]) -> _InForce:
    """Return which rules hold at a moment, and for how long; `before` itself where they are the same."""
    edges = [edge for rule in all_rules for edge in (rule.start_ms, rule.end_ms) if edge is not None]
    rules = tuple(rule for rule in all_rules if rule.holds_at(now_ms))
    return _InForce(
        all_rules,
        before if rules == before else rules,
        max((edge for edge in edges if edge <= now_ms), default=-np.inf),
        min((edge for edge in edges if edge > now_ms), default=np.inf),
    )


def effect_of(rules: Sequence[Rule], snapshot: Snapshot, filters: CatalogueFilters) -> Effect:
    """Return what rules come to; a product that several lift or lower gets the sum.

    What the catalogue does not have is passed over: it may join while the rule holds.
    """
    strengths: _ByTarget = {target: {} for target in Target}
    blocks: _ByTarget = {target: {} for target in Target}
    for rule in rules:
        if rule.action is Action.BLOCK:
            blocks[rule.target][rule.name] = 1.0
        elif rule.action is not Action.PIN:
            of_target = strengths[rule.target]
            strength = rule.strength if rule.action is Action.BOOST else -rule.strength
            of_target[rule.name] = of_target.get(rule.name, 0.0) + strength
    # Rounded: 0.1 and 0.2 are 0.3, in whatever order rules are added up.
    lift = _sums(strengths, snapshot, filters).round(6).astype(np.float32)
    levels: tuple[Bools | None, ...] = (None,)
    lifted = bool(lift.any())
    if lifted:
        found = np.unique(lift)
        levels = tuple(lift == level for level in found) if len(found) <= MOST_LEVELS else ()
    return Effect(
        lift if lifted else None,
        levels,
        np.flatnonzero(_sums(blocks, snapshot, filters)),
        _pins((rule for rule in rules if rule.action is Action.PIN), snapshot, filters),
    )


def _sums(numbers: Mapping[Target, Mapping[str, float]], snapshot: Snapshot, filters: CatalogueFilters) -> Float64s:
    """Return the sum of the numbers of what each product is `[P]`, 0 for those that were taken out."""
    total = np.zeros(len(snapshot.products))
    of_products = numbers[Target.PRODUCT]
    product_index = snapshot.products.indices(of_products)
    known = product_index != MISSING
    total[product_index[known]] = np.fromiter(of_products.values(), np.float64)[known]
    for target in (Target.BRAND, Target.CATEGORY):
        for name, number in numbers[target].items():
            total[_products(target, name, snapshot, filters)] += number
    total[snapshot.products.taken_out] = 0
    return total


def _pins(rules: Iterable[Rule], snapshot: Snapshot, filters: CatalogueFilters) -> tuple[Pin, ...]:
    pins: dict[int, Bools] = {}
    named: set[str] = set()
    for rule in sorted(rules, key=lambda each: (each.position, each.rule_id)):
        of_product = rule.target is Target.PRODUCT
        if rule.position in pins or (of_product and rule.name in named):
            continue
        among = np.zeros(len(snapshot.products), np.bool_)
        among[_products(rule.target, rule.name, snapshot, filters)] = True
        among[snapshot.products.taken_out] = False
        if among.any():
            pins[rule.position] = among
            named |= {rule.name} if of_product else set()
    return tuple(Pin(position, among) for position, among in pins.items())


def _products(target: Target, name: str, snapshot: Snapshot, filters: CatalogueFilters) -> Int64s:
    """Return the products that rules about a target mean, some of them twice; who was taken out may be among them."""
    if target is Target.PRODUCT:
        product_index = snapshot.products.index(name)
        return np.array([] if product_index == MISSING else [product_index], np.int64)
    return filters.products_of_brand(name) if target is Target.BRAND else filters.products_in_category(name)
