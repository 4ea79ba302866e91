"""Each row of a raw table by itself: cast its values, and mark what breaks a rule."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask, carries_unit, cast, to_time_ms
from kg.errors import DataError
from kg.quality import rules
from kg.quality.findings import Findings
from kg.quality.mending import mend
from kg.quality.rules import Broken
from kg.sources.raw import FILE, LINE, ORIGIN, RawTable
from kg.tables import SCHEMAS

_DEFAULTS: dict[str, object] = {
    "title": "",
    "description": "",
    "brand": "",
    "category": [],
    "attributes": [],
    "head_kind": "product",
    "tail_kind": "product",
}
_IF_BLANK = {"event_id": None, "head_kind": "product", "tail_kind": "product"}
_WRONG_UNIT_SHARE = 0.9


def judge_rows(name: str, raw: RawTable, now_ms: int, findings: Findings) -> tuple[dict[str, pa.Array], Mask]:
    """Return a table's canonical columns, still as long as the raw ones, and which of its rows are good `[N]`.

    Raises:
        DataError: a whole column of times is in another unit than it should be.
    """
    columns: dict[str, pa.Array] = {}
    readable = np.ones(len(raw.rows), bool)
    for field in SCHEMAS[name]:
        if field.name not in raw.rows.column_names:
            columns[field.name] = default_column(field, len(raw.rows))
            continue
        column = raw.rows[field.name]
        found = to_time_ms(column, raw.time_unit) if field.name == "at_ms" else cast(column, field.type)
        readable &= ~findings.refuse(Broken(found.rule, field.name, found.bad))
        columns[field.name] = _without_blanks(field.name, found.values)
    if name == "interactions":
        columns["position"] = pc.coalesce(columns["position"], pa.array(np.arange(len(raw.rows))))
    keep = readable.copy()
    for broken in _broken_rules(name, columns, now_ms, raw):
        if broken.rule == rules.WRONG_UNIT:
            _stop_if_column_is_in_other_unit(broken, raw, columns["at_ms"])
        keep &= ~findings.refuse(broken._replace(rows=broken.rows & readable))
    columns, mended = mend(name, columns)
    for broken in mended:
        findings.mend(broken._replace(rows=broken.rows & keep))
    return columns, keep


def default_column(field: pa.Field, rows: int) -> pa.Array:
    """Return what a column holds that the source does not have."""
    if field.name in _DEFAULTS:
        return pa.array([_DEFAULTS[field.name]] * rows, field.type)
    return pa.nulls(rows, field.type)


def stated_columns(raw: RawTable) -> frozenset[str]:
    """Return the columns that every file of a table has: their empty cells say that the value is empty."""
    names = [name for name in raw.rows.column_names if name not in ORIGIN]
    file = raw.rows[FILE].cast(pa.string())
    files = file.unique()
    if len(files) < 2:
        return frozenset(names)
    # Stacked, the rows of a file without a column have nulls there.
    place = pc.index_in(file, files).to_numpy()
    cells = {name: np.bincount(place, np.asarray(raw.rows[name].is_valid()), len(files)) for name in names}
    return frozenset(name for name in names if cells[name].all())


def _without_blanks(field: str, values: pa.Array) -> pa.Array:
    """Return a column with its blank cells as missing ones, or as what is meant where they are missing."""
    if field not in _IF_BLANK:
        return values
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True)
    return pc.if_else(blank, pa.scalar(_IF_BLANK[field], values.type), values)


def _broken_rules(name: str, columns: dict[str, pa.Array], now_ms: int, raw: RawTable) -> list[Broken]:
    broken: list[Broken] = []
    for field in ("user_id", "product_id", "head", "tail"):
        if field in columns:
            broken += rules.id_rules(field, columns[field])
    if name == "interactions":
        broken += rules.time_rules(columns["at_ms"], now_ms, _with_unit(raw))
        broken += rules.interaction_rules(columns)
    elif name == "products":
        broken += rules.product_rules(columns)
    elif name == "facts":
        broken += rules.fact_rules(columns)
    return broken


def _with_unit(raw: RawTable) -> Mask:
    """Return whose times are in a known unit `[N]`; files with times of several kinds may stand in one table."""
    if raw.time_unit is not None:
        return np.ones(len(raw.rows), np.bool_)
    return carries_unit(raw.rows["at_ms"])


def _stop_if_column_is_in_other_unit(broken: Broken, raw: RawTable, at_ms: pa.Array) -> None:
    """A column in seconds is one mistake of the mapping, not a million bad rows."""
    wrong = np.flatnonzero(broken.rows)
    numbers = np.asarray(at_ms.is_valid()) & ~_with_unit(raw)
    if len(wrong) == 0 or len(wrong) < _WRONG_UNIT_SHARE * np.count_nonzero(numbers):
        return
    first = int(wrong[0])
    number = at_ms[first].as_py()
    if number < rules.EARLIEST_MS:
        unit, meaning = "s", "seconds"
    elif number < rules.LATEST_MS * 1000:
        unit, meaning = "us", "microseconds"
    else:
        unit, meaning = "ns", "nanoseconds"
    place = f"{raw.rows[FILE][first].as_py()} line {raw.rows[LINE][first].as_py()}"
    raise DataError(
        f"interactions.at_ms ({place}) holds {number}, as if in {meaning}: "
        "in milliseconds, most of the column would be before 1973 or after 5138",
        f"Declare the unit with --unit interactions.at_ms={unit}, or =ms if the times are right.",
    )
