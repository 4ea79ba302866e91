"""Raw tables to clean ones: cast every column, mark what breaks a rule, then duplicates, then references."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask, cast, to_time_ms
from kg.errors import DataError
from kg.quality import rules
from kg.quality.findings import Findings
from kg.quality.identity import event_ids, occurrences
from kg.quality.mending import mend
from kg.quality.policy import Outside, Policy
from kg.quality.report import Action, Report
from kg.quality.rules import Broken
from kg.sources.raw import FILE, LINE, Raw, RawTable
from kg.tables import SCHEMAS, Tables

_REQUIRED = {
    "interactions": ("user_id", "product_id", "type", "at_ms"),
    "products": ("product_id",),
    "facts": ("head", "relation", "tail"),
    "users": ("user_id",),
}
_DEFAULTS: dict[str, object] = {
    "title": "",
    "description": "",
    "brand": "",
    "category": [],
    "attributes": [],
    "head_kind": "product",
    "tail_kind": "product",
}
_PRODUCT = "product"


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
        DataError: a required column is missing, or a whole column of times is in the wrong unit.
    """
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    findings = Findings(raw)
    tables: dict[str, pa.Table] = {}
    for name in ("products", "users", "interactions", "facts"):
        if name not in raw.tables:
            tables[name] = SCHEMAS[name].empty_table()
            continue
        raw_table = raw.tables[name]
        _require(name, raw_table)
        columns, keep = _judge_rows(name, raw_table, now_ms, findings)
        keep &= ~_outside(name, columns, keep, tables, policy, findings)
        tables[name] = _distinct(name, raw_table, columns, keep, findings)
    bare = policy.outside.get("interactions") or (Outside.REFUSE if len(tables["products"]) else Outside.BARE)
    if bare is Outside.BARE:
        tables["products"] = _with_bare(tables["products"], tables["interactions"]["product_id"])
    kept = {name: len(table) for name, table in tables.items()}
    return Checked(Tables(**tables), findings.report(kept), findings.refused())


def _require(name: str, raw: RawTable) -> None:
    missing = [column for column in _REQUIRED[name] if column not in raw.rows.column_names]
    if missing:
        files = ", ".join(raw.rows[FILE].unique().to_pylist()) or "its file"
        raise DataError(
            f"{name} ({files}): column {missing[0]} is missing",
            f"Give it with --map {name}.{missing[0]}=COLUMN or --constant {name}.{missing[0]}=VALUE.",
        )


def _judge_rows(name: str, raw: RawTable, now_ms: int, findings: Findings) -> tuple[dict[str, pa.Array], Mask]:
    """Cast the columns and mark the rows that stay; the arrays are still as long as the raw table."""
    findings.start(name, raw.rows)
    columns: dict[str, pa.Array] = {}
    keep = np.ones(len(raw.rows), bool)
    for field in SCHEMAS[name]:
        if field.name not in raw.rows.column_names:
            columns[field.name] = _default(field, len(raw.rows))
            continue
        column = raw.rows[field.name]
        found = to_time_ms(column, raw.time_unit) if field.name == "at_ms" else cast(column, field.type)
        keep &= ~findings.refuse(Broken(found.rule, field.name, found.bad))
        columns[field.name] = found.values
        if field.name == "position":
            columns["position"] = pc.coalesce(found.values, _default(field, len(raw.rows)))
    readable = keep.copy()
    for broken in _rules(name, columns, now_ms, raw):
        if broken.rule == "time_unit":
            _stop_if_wrong_unit(broken, raw)
        keep &= ~findings.refuse(broken._replace(rows=broken.rows & readable))
    columns, mended = mend(name, columns)
    for broken in mended:
        findings.mend(broken._replace(rows=broken.rows & keep))
    return columns, keep


def _default(field: pa.Field, rows: int) -> pa.Array:
    if field.name == "position":
        return pa.array(np.arange(rows, dtype=np.int64))
    if field.name in _DEFAULTS:
        return pa.repeat(pa.scalar(_DEFAULTS[field.name], field.type), rows)
    return pa.nulls(rows, field.type)


def _rules(name: str, columns: dict[str, pa.Array], now_ms: int, raw: RawTable) -> list[Broken]:
    broken: list[Broken] = []
    for field in ("user_id", "product_id", "head", "tail"):
        if field in columns:
            broken += rules.id_rules(field, columns[field])
    if name == "interactions":
        typed = pa.types.is_temporal(raw.rows["at_ms"].type)
        broken += rules.time_rules(columns["at_ms"], now_ms, raw.time_unit is not None or typed)
        broken += rules.interaction_rules(columns)
        if columns["event_id"].null_count < len(columns["event_id"]):
            broken += rules.id_rules("event_id", columns["event_id"])
    elif name == "products":
        broken += rules.product_rules(columns)
    elif name == "facts":
        broken += rules.fact_rules(columns)
    return broken


def _stop_if_wrong_unit(broken: Broken, raw: RawTable) -> None:
    """A column that is in seconds as a whole is a mistake in the mapping, not a thousand bad rows."""
    if len(broken.rows) == 0 or broken.rows.mean() < 0.9:
        return
    first = np.flatnonzero(broken.rows)[0]
    value = raw.rows["at_ms"][int(first)].as_py()
    number = float(value.decode() if isinstance(value, bytes) else value)
    unit, meaning = ("s", "seconds") if number < rules.EARLIEST_MS else ("us", "microseconds")
    unit, meaning = ("ns", "nanoseconds") if number > rules.LATEST_MS * 1000 else (unit, meaning)
    raise DataError(
        f"interactions.at_ms ({raw.rows[FILE][int(first)].as_py()} line {raw.rows[LINE][int(first)].as_py()}) "
        f"looks like {meaning}: in milliseconds nearly all times would be before 1973 or after 5138",
        f"Declare the unit: --unit interactions.at_ms={unit} (or =ms if they are right).",
    )


def _outside(
    name: str,
    columns: dict[str, pa.Array],
    keep: Mask,
    tables: dict[str, pa.Table],
    policy: Policy,
    findings: Findings,
) -> Mask:
    """Mark the rows to leave out because they point to a product that is not in the catalogue."""
    if name not in ("interactions", "facts"):
        return np.zeros(len(keep), bool)
    catalogue = tables["products"]["product_id"]
    default = Outside.DROP if name == "facts" else Outside.REFUSE
    if name == "interactions" and not len(catalogue):
        default = Outside.BARE
    action = policy.outside.get(name, default)
    if action is Outside.BARE:
        return np.zeros(len(keep), bool)
    ends = [("product_id", None)] if name == "interactions" else [("head", "head_kind"), ("tail", "tail_kind")]
    out = np.zeros(len(keep), bool)
    for field, kind in ends:
        unknown = ~np.asarray(pc.is_in(columns[field], value_set=catalogue), dtype=bool) & keep
        if kind is not None:
            unknown &= np.asarray(pc.fill_null(pc.equal(columns[kind], _PRODUCT), False), dtype=bool)
        broken = Broken("outside_catalogue", field, unknown & ~out)
        out |= findings.refuse(broken) if action is Outside.REFUSE else findings.drop(broken, Action.DROPPED)
    return out


def _distinct(name: str, raw: RawTable, columns: dict[str, pa.Array], keep: Mask, findings: Findings) -> pa.Table:
    """Leave out what is there already, and give every interaction its event id."""
    rows = np.flatnonzero(keep)
    kept = {field: array.take(pa.array(rows)) if len(rows) < len(keep) else array for field, array in columns.items()}
    if name == "interactions":
        derived = event_ids(kept)
        if not raw.repeats_are_events:
            repeats = occurrences([kept[field] for field in ("user_id", "product_id", "type", "at_ms", "value")]) > 0
        else:
            repeats = np.zeros(len(rows), bool)
        kept["event_id"] = pc.coalesce(kept["event_id"], derived)
        repeats |= occurrences([kept["event_id"]]) > 0
        field = "event_id" if raw.repeats_are_events else ""
    else:
        identity = {"products": ["product_id"], "users": ["user_id"]}.get(name, list(kept))
        repeats = occurrences([kept[column] for column in identity]) > 0
        field = identity[0] if len(identity) == 1 else ""
    mask = np.zeros(len(keep), bool)
    mask[rows[repeats]] = True
    findings.drop(Broken("duplicate", field, mask), Action.DUPLICATE)
    table = pa.table([kept[column.name] for column in SCHEMAS[name]], schema=SCHEMAS[name])
    return table.filter(pa.array(~repeats)) if repeats.any() else table


def _with_bare(products: pa.Table, bought: pa.ChunkedArray) -> pa.Table:
    ids = bought.unique()
    missing = ids.filter(pc.invert(pc.is_in(ids, value_set=products["product_id"])))
    if not len(missing):
        return products
    schema = SCHEMAS["products"]
    columns = [missing if field.name == "product_id" else _default(field, len(missing)) for field in schema]
    return pa.concat_tables([products, pa.table(columns, schema=schema)])
