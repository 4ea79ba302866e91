"""What a check found: rows by table, rows by rule, and whether that is too many."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from kg.errors import DataError
from kg.quality.policy import Policy
from kg.quality.remedies import remedy_of


class Action(StrEnum):
    """What was done with the rows that break a rule."""

    REFUSED = "refused"
    """The row is bad: left out and quarantined."""
    DUPLICATE = "duplicate"
    """The row is there already: left out."""
    DROPPED = "dropped"
    """The policy leaves such rows out."""
    MENDED = "mended"
    """The row is kept with the value corrected."""


@dataclass(frozen=True)
class RuleCount:
    """How many rows of a table broke a rule in a field, and where the first of them is."""

    table: str
    rule: str
    field: str
    action: Action
    rows: int
    first_file: str
    first_line: int


@dataclass(frozen=True)
class TableCount:
    """Rows of a table: `read = kept + refused + duplicate + dropped`; `bare` products were added besides."""

    read: int
    kept: int
    refused: int
    duplicate: int
    dropped: int
    bare: int = 0

    @property
    def bad_share(self) -> float:
        """The share of rows that were refused, 0 to 1."""
        return self.refused / self.read if self.read else 0.0


@dataclass(frozen=True)
class Report:
    """The result of a check, without any row's content.

    Args:
        source: the source's name.
        tables: row counts by table.
        rules: every rule that a row broke.
        left_out: rows that the source left out on purpose, by reason.
        notes: what else the source has to say of its reading.
    """

    source: str
    tables: Mapping[str, TableCount]
    rules: tuple[RuleCount, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        tables = {name: asdict(count) | {"bad_share": round(count.bad_share, 6)} for name, count in self.tables.items()}
        return {
            "source": self.source,
            "tables": tables,
            "rules": [asdict(rule) for rule in self.rules],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def judge(self, policy: Policy) -> None:
        """Stop if there is more that is bad than the policy allows.

        Raises:
            DataError: names the table, the share, the commonest rule, its first line and what to do about it.
        """
        for name, count in self.tables.items():
            if policy.strict and count.refused + count.duplicate:
                worst, remedy = self._worst(name)
                raise DataError(
                    f"{name}: {count.refused:,} bad and {count.duplicate:,} duplicate rows of {count.read:,}"
                    f"{worst}; strict accepts none",
                    f"{remedy}Mend the file, or load without --strict; nothing was loaded.",
                )
            if count.bad_share > policy.max_bad:
                worst, remedy = self._worst(name)
                raise DataError(
                    f"{name}: {count.refused:,} of {count.read:,} rows ({count.bad_share:.1%}) are bad, "
                    f"more than {policy.max_bad:.1%}{worst}",
                    f"{remedy}The report and the quarantine file show them all. Mend the file or the mapping, or allow "
                    "more with --max-bad; nothing was loaded.",
                )

    def _worst(self, table: str) -> tuple[str, str]:
        """Return the commonest rule of a table's bad rows with its first line, and what to do about it."""
        rules = [r for r in self.rules if r.table == table and r.action in (Action.REFUSED, Action.DUPLICATE)]
        if not rules:
            return "", ""
        worst = max(rules, key=lambda rule: (rule.action is Action.REFUSED, rule.rows))
        field = f" in {worst.field}" if worst.field else ""
        return (
            f", mostly {worst.rule}{field} (first: {worst.first_file} line {worst.first_line})",
            f"{remedy_of(table, worst.rule, worst.field)} ",
        )
