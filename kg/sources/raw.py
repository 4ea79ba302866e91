"""What a source yields: tables with canonical column names, loose types, and the origin of every row.

A source reads and renames; `kg.quality` casts, judges and counts. So every row keeps the file and line it came from
until it is either clean or in the quarantine file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.casting import TimeUnit, as_text, is_text

FILE = "_file"
LINE = "_line"
ORIGIN = (FILE, LINE)
"""Columns that every raw table has: the file's name (dictionary of string) and the line or row in it (int64)."""

REFUSALS = pa.schema(
    [
        pa.field("table", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("field", pa.string()),
        pa.field("value", pa.string()),
        pa.field("rule", pa.string()),
    ]
)
"""One row per rule that an input row breaks; `value` is shortened to `MAX_VALUE_CHARS`."""

MAX_VALUE_CHARS = 200


@dataclass(frozen=True)
class RawTable:
    """The rows of one canonical table as a source found them.

    Args:
        rows: canonical columns (a source may lack optional ones) of any type that `kg.quality` can cast, and `ORIGIN`.
        time_unit: unit of numeric times; None if nobody said, then milliseconds are assumed and the figures looked at.
        repeats_are_events: equal interactions without an event id are separate events (two of the same in a basket);
            False if they are one event that the file has twice.
    """

    rows: pa.Table
    time_unit: TimeUnit | None = None
    repeats_are_events: bool = True


@dataclass(frozen=True)
class Raw:
    """What a source read.

    Args:
        source: the source's name.
        tables: raw tables by canonical name; a table the source does not have is absent.
        refused: rows that could not even be split into columns (`REFUSALS`).
        left_out: how many rows were left out on purpose, by reason; they are reported, and not bad.
        notes: what else a person should know of the reading: a column not used, a unit guessed.
    """

    source: str
    tables: Mapping[str, RawTable]
    refused: pa.Table = field(default_factory=REFUSALS.empty_table)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRows:
    """A file's rows with `ORIGIN` columns, and its lines that could not be split into columns (`REFUSALS`)."""

    rows: pa.Table
    refused: pa.Table


def with_origin(rows: pa.Table, file: str, lines: npt.NDArray[np.int64] | None = None) -> pa.Table:
    """Return `rows` with the `ORIGIN` columns; `lines [N]` are the row numbers from 1 unless given."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int32)), pa.array([file], pa.string()))
    numbers = np.arange(1, len(rows) + 1) if lines is None else lines
    own = [name for name in rows.column_names if name not in ORIGIN]
    return rows.select(own).append_column(FILE, names).append_column(LINE, pa.array(numbers, pa.int64()))


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of raw tables one after another; a column of different types becomes text throughout."""
    try:
        return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        names = dict.fromkeys(name for table in tables for name in table.column_names if name not in ORIGIN)
        return pa.concat_tables([_as_texts(table, list(names)) for table in tables]).unify_dictionaries()


def _as_texts(table: pa.Table, names: list[str]) -> pa.Table:
    nothing = pa.nulls(len(table), pa.binary())
    columns = {name: _spelled(table[name]) if name in table.column_names else nothing for name in names}
    return pa.table(columns | {name: table[name] for name in ORIGIN})


def _spelled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values of any type as a text file would spell them, in bytes."""
    if pa.types.is_nested(column.type):
        values = [None if value is None else encoded(as_text(value)) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.binary())])
    return column.cast(pa.binary()) if is_text(column.type) else column.cast(pa.string()).cast(pa.binary())


def refusals(table: str, path: Path, rule: str, found: Sequence[tuple[int, str]]) -> pa.Table:
    """Return `REFUSALS` rows for whole lines: `found` holds (line, text)."""
    return pa.table(
        {
            "table": [table] * len(found),
            "file": [path.name] * len(found),
            "line": [line for line, _ in found],
            "field": [""] * len(found),
            "value": [shortened(text) for _, text in found],
            "rule": [rule] * len(found),
        },
        schema=REFUSALS,
    )


def shortened(value: Any) -> str | None:
    """Return a value as the quarantine shows it: text of at most `MAX_VALUE_CHARS`, odd bytes escaped."""
    if value is None:
        return None
    data = value if isinstance(value, bytes) else encoded(str(value)[:MAX_VALUE_CHARS])
    return data.decode("utf-8", "backslashreplace")[:MAX_VALUE_CHARS]


def encoded(text: str) -> bytes:
    """Return text as the bytes it was read from, so that what is not UTF-8 can be found."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return text.encode("utf-8", "surrogatepass")
