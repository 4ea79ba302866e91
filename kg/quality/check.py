"""Raw tables to clean ones: each row by itself, then references between tables, then duplicates."""

import time
from dataclasses import dataclass

import pyarrow as pa

from kg.errors import DataError
from kg.quality.findings import Findings
from kg.quality.identity import distinct
from kg.quality.policy import Policy
from kg.quality.references import outside_catalogue, with_bare_products
from kg.quality.report import Report
from kg.quality.rows import judge_rows, stated_columns
from kg.sources.raw import FILE, Raw, RawTable
from kg.tables import SCHEMAS, Tables

_REQUIRED = {
    "products": ("product_id",),
    "users": ("user_id",),
    "interactions": ("user_id", "product_id", "type", "at_ms"),
    "facts": ("head", "relation", "tail"),
}
"""The columns a table can't be without; in the order of checking, since later tables refer to products."""


@dataclass(frozen=True)
class Checked:
    """Clean tables, the report, and the refused rows (`kg.sources.raw.REFUSALS`) for the quarantine file."""

    tables: Tables
    report: Report
    refused: pa.Table


def clean(raw: Raw, policy: Policy | None = None, *, now_ms: int | None = None) -> Checked:
    """Check raw tables and stop if there is more that is bad than the policy allows.

    Raises:
        DataError: as `check` and `Report.judge`.
    """
    policy = policy or Policy()
    checked = check(raw, policy, now_ms=now_ms)
    checked.report.judge(policy)
    return checked


def check(raw: Raw, policy: Policy, *, now_ms: int | None = None) -> Checked:
    """Check raw tables.

    Args:
        raw: what a source read.
        policy: what to do with rows that point outside the catalogue.
        now_ms: what counts as the future; the clock's time by default.

    Raises:
        DataError: a required column is missing, or a whole column of times is in another unit than it should be.
    """
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    findings = Findings(raw)
    tables = {name: schema.empty_table() for name, schema in SCHEMAS.items()}
    bare = 0
    for name, required in _REQUIRED.items():
        if name not in raw.tables:
            continue
        raw_table = raw.tables[name]
        _require(name, required, raw_table)
        findings.start(name, raw_table.rows)
        columns, keep = judge_rows(name, raw_table, now_ms, findings)
        if name in ("interactions", "facts"):
            action = policy.action(name, has_catalogue="products" in raw.tables)
            keep &= ~outside_catalogue(columns, keep, tables["products"]["product_id"], action, findings)
        tables[name] = distinct(name, raw_table, columns, keep, findings)
        if name == "interactions":
            described = len(tables["products"])
            tables["products"] = with_bare_products(tables["products"], tables[name]["product_id"])
            bare = len(tables["products"]) - described
    rows = {name: len(table) for name, table in tables.items()}
    stated = {name: stated_columns(raw.tables[name]) for name in ("products", "users") if name in raw.tables}
    if "interactions" in raw.tables:
        stated["interactions"] = frozenset(raw.tables["interactions"].rows.column_names)
    return Checked(Tables(**tables, stated=stated), findings.report(rows, bare), findings.refused())


def _require(name: str, required: tuple[str, ...], raw: RawTable) -> None:
    missing = [column for column in required if column not in raw.rows.column_names]
    if missing:
        files = ", ".join(raw.rows[FILE].unique().to_pylist()) or "no rows"
        found = f"The columns are: {', '.join(raw.file_columns)}. " if raw.file_columns else ""
        raise DataError(
            f"{name} ({files}): column {missing[0]} is missing",
            f"{found}Give it with --map {name}.{missing[0]}=COLUMN or --constant {name}.{missing[0]}=VALUE.",
        )
