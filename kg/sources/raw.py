"""What a source yields: tables with canonical column names, loose types, and the origin of every row.

A source reads and renames; `kg.quality` casts, judges and counts. So every row keeps the file and line it came from
until it is either clean or in the quarantine file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import TimeUnit, as_text, cast, is_text, plain
from kg.errors import DataError

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

RAW_ATTRIBUTES = pa.map_(pa.string(), pa.binary())
"""Attributes as a file spells them, so that the quality check finds what is not UTF-8."""

_MAX_TEXT_BYTES = 2**31 - 1


@dataclass(frozen=True)
class RawTable:
    """The rows of one canonical table as a source found them.

    Args:
        rows: canonical columns (a source may lack optional ones) of any type that `kg.quality` can cast, and `ORIGIN`.
        time_unit: unit of numeric times; None if nobody said, then milliseconds are assumed and the figures looked at.
        repeats_are_events: equal interactions without an event id are separate events (two of the same in a basket);
            False if they are one event that the file has twice.
        file_columns: the files' own names of columns, to tell where a required one is missing; empty if nobody said.
    """

    rows: pa.Table
    time_unit: TimeUnit | None = None
    repeats_are_events: bool = True
    file_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_sizes(self.rows)


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
    """A file's rows with `ORIGIN` columns, its lines that could not be split into columns (`REFUSALS`), and notes."""

    rows: pa.Table
    refused: pa.Table
    notes: tuple[str, ...] = ()


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
    _require_sizes(table)
    nothing = pa.nulls(len(table), pa.binary())
    columns = {name: spelled(table[name]) if name in table.column_names else nothing for name in names}
    return pa.table(columns | {name: table[name] for name in ORIGIN})


def spelled(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return values of any type as a text file would spell them, in bytes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return spelled(pa.chunked_array([plain(column)]))
    if pa.types.is_map(kind):
        return _encoded(None if value is None else _grouped(value) for value in column.to_pylist())
    if pa.types.is_nested(kind):
        return _encoded(column.to_pylist())
    if pa.types.is_floating(kind):
        # pandas turns a column of whole numbers with a gap into floats, and Arrow would spell 4e12 with its exponent.
        text = pc.coalesce(cast(column, pa.int64()).values.cast(pa.string()), plain(column).cast(pa.string()))
        there = cast(column, pa.float64()).values.is_valid()
        return pa.chunked_array([pc.if_else(there, text, pa.scalar(None, pa.string())).cast(pa.binary())])
    return column.cast(pa.binary()) if is_text(kind) else column.cast(pa.string()).cast(pa.binary())


def _encoded(values: Iterable[Any]) -> pa.ChunkedArray:
    spelled_values = [None if value is None else encoded(as_text(value)) for value in values]
    return pa.chunked_array([pa.array(spelled_values, pa.binary())])


def _grouped(pairs: list[tuple[Any, Any]]) -> dict[str, list[Any]]:
    """Return a map, which may have a key several times, as an object."""
    groups: dict[str, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(as_text(key), []).append(value)
    return groups


def _require_sizes(rows: pa.Table) -> None:
    """Check that each column of text fits into one array.

    Raises:
        DataError: one does not.
    """
    for name in rows.column_names:
        size = _text_bytes(rows[name])
        if size > _MAX_TEXT_BYTES:
            files = ", ".join(rows[FILE].unique().to_pylist())
            raise DataError(
                f"{files}: column {name} holds {size / 2**30:.1f} GiB of text; at most 2 GiB can be read at once",
                "Load it in parts: write its rows into several files, equal ones into one, and load one after another.",
            )


def _text_bytes(column: pa.ChunkedArray) -> int:
    if not is_text(column.type) or column.nbytes <= _MAX_TEXT_BYTES:
        return 0
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column)).as_py())


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
