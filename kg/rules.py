"""The shop's own rules: what is pinned, boosted, buried or blocked, and when. Each is a node of the graph."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kg.commits import ChangeKind, Commit
from kg.whole_rows import whole_rows

if TYPE_CHECKING:
    from kg.store import Graph


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


_COLUMNS = "r.id, r.action, r.target, r.name, r.strength, r.position, r.start, r.end"
_ALWAYS = range(6)
"""Which of the columns every rule has."""


def upsert_rule(graph: "Graph", rule: Rule) -> None:
    """Add a rule, or change the one with its id."""

    def work(commit: Commit) -> None:
        commit.run(
            "MERGE (r:Rule {id: $id}) SET r.action = $action, r.target = $target, r.name = $name, "
            "r.strength = $strength, r.position = $position, r.start = $start, r.end = $end",
            id=rule.rule_id,
            action=str(rule.action),
            target=str(rule.target),
            name=rule.name,
            strength=rule.strength,
            position=rule.position,
            start=rule.start_ms,
            end=rule.end_ms,
        )
        commit.note(ChangeKind.RULE, rule.rule_id)

    graph.commit(work)


def remove_rule(graph: "Graph", rule_id: str) -> bool:
    """Remove a rule; return whether there was one."""

    def work(commit: Commit) -> bool:
        gone = commit.run("MATCH (r:Rule {id: $id}) DELETE r", id=rule_id).changes.get("nodes_deleted", 0)
        if gone:
            commit.note(ChangeKind.RULE, rule_id)
        return bool(gone)

    return graph.commit(work)


def rules_page(graph: "Graph", after: str = "", limit: int | None = None) -> list[Rule]:
    """Return rules in the order of their ids, those above `after`, at most `limit`; None: all of them."""
    rows = whole_rows(
        lambda: graph.read(
            f"MATCH (r:Rule) WHERE r.id > $after RETURN {_COLUMNS} ORDER BY r.id LIMIT $limit",
            after=after,
            limit=(1 << 31) if limit is None else limit,
        ),
        _ALWAYS,
        steady=True,
    )
    return [
        Rule(rule_id, Action(action), Target(target), name, strength, position, start_ms, end_ms)
        for rule_id, action, target, name, strength, position, start_ms, end_ms in rows
    ]
