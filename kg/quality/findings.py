"""The running record of a check: what each rule found, and the refused rows with their place and value."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from kg.casting import Mask
from kg.quality.report import Action, Report, RuleCount, TableCount
from kg.quality.rules import Broken
from kg.sources.raw import FILE, LINE, REFUSALS, Raw, shortened

_MAX_QUARANTINED = 100_000
"""Rows a rule writes to the quarantine file at most; the counts are always complete."""


class Findings:
    """Collects what is found in one source's tables, table after table."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._rules: list[RuleCount] = []
        self._refused: list[pa.Table] = [raw.refused]
        self._read: dict[str, int] = {}
        self._rows: Counter[tuple[str, Action]] = Counter()
        self._seen = np.zeros(0, bool)
        for (table, rule), rows in _count_lines(raw.refused).items():
            self._rows[table, Action.REFUSED] += len(rows)
            first = rows[0]
            self._rules.append(RuleCount(table, rule, "", Action.REFUSED, len(rows), first["file"], first["line"]))
            self._read[table] = self._read.get(table, 0) + len(rows)

    def start(self, name: str, rows: pa.Table) -> None:
        """Begin a table."""
        self._name = name
        self._table = rows
        self._seen = np.zeros(len(rows), bool)
        self._read[name] = self._read.get(name, 0) + len(rows)

    def refuse(self, broken: Broken) -> Mask:
        """Count a rule, quarantine its rows, and return them."""
        if broken.rows.any():
            self._count(broken, Action.REFUSED)
            self._quarantine(broken)
        return broken.rows

    def drop(self, broken: Broken, action: Action) -> Mask:
        """Count rows that are left out without being bad, and return them."""
        if broken.rows.any():
            self._count(broken, action)
        return broken.rows

    def mend(self, broken: Broken) -> None:
        """Count rows whose value was corrected."""
        if broken.rows.any():
            self._count(broken, Action.MENDED)

    def _count(self, broken: Broken, action: Action) -> None:
        rows = np.flatnonzero(broken.rows)
        first = int(rows[0])
        place = (self._table[FILE][first].as_py(), self._table[LINE][first].as_py())
        self._rules.append(RuleCount(self._name, broken.rule, broken.field, action, len(rows), *place))
        if action is not Action.MENDED:
            # A row may break several rules, yet it is one row.
            self._rows[self._name, action] += int((~self._seen[rows]).sum())
            self._seen[rows] = True

    def _quarantine(self, broken: Broken) -> None:
        rows = self._table.take(pa.array(np.flatnonzero(broken.rows)[:_MAX_QUARANTINED]))
        values = rows[broken.field].to_pylist() if broken.field in rows.column_names else [None] * len(rows)
        self._refused.append(
            pa.table(
                {
                    "table": [self._name] * len(rows),
                    "file": rows[FILE].cast(pa.string()),
                    "line": rows[LINE],
                    "field": [broken.field] * len(rows),
                    "value": [shortened(value) for value in values],
                    "rule": [broken.rule] * len(rows),
                },
                schema=REFUSALS,
            )
        )

    def report(self, rows: dict[str, int], bare: int) -> Report:
        """Return the counts of every table and rule.

        Args:
            rows: of each clean table.
            bare: how many of the products are there only because interactions name them.
        """
        counts = {
            name: TableCount(
                read=self._read.get(name, 0),
                kept=count - (bare if name == "products" else 0),
                refused=self._rows[name, Action.REFUSED],
                duplicate=self._rows[name, Action.DUPLICATE],
                dropped=self._rows[name, Action.DROPPED],
                bare=bare if name == "products" else 0,
            )
            for name, count in rows.items()
        }
        return Report(self._raw.source, counts, tuple(self._rules), self._raw.left_out, self._raw.notes)

    def refused(self) -> pa.Table:
        """Return the rows for the quarantine file."""
        return pa.concat_tables(self._refused)


def _count_lines(refused: pa.Table) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in refused.to_pylist():
        groups.setdefault((row["table"], row["rule"]), []).append(row)
    return groups
