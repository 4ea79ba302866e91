"""The shop's own rules, as values: what is pinned, boosted, buried or blocked, and when."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a rule does."""

    PIN = "pin"
    BOOST = "boost"
    BURY = "bury"
    BLOCK = "block"


class Target(StrEnum):
    """What a rule does it to: one product, or every product of a brand, or of a category and those below it."""

    PRODUCT = "product"
    BRAND = "brand"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Args:
        rule_id: its id.
        action: what it does.
        target: to what kind of thing.
        name: which: a product id, a brand, or a category path joined by ` > `.
        strength: how much a product is lifted or lowered, in standard deviations of a user's scores.
        position: where a product is pinned, from 1.
        start_ms: from when; None: from the beginning.
        end_ms: until when, not included; None: for good.
    """

    rule_id: str
    action: Action
    target: Target
    name: str
    strength: float = 1.0
    position: int = 1
    start_ms: int | None = None
    end_ms: int | None = None

    def holds_at(self, now_ms: int) -> bool:
        """Return whether the rule holds at a moment."""
        return (self.start_ms is None or self.start_ms <= now_ms) and (self.end_ms is None or now_ms < self.end_ms)
