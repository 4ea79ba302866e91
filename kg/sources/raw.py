"""What a source yields: tables with canonical column names, loose types, and the origin of every row.

A source reads and renames; `kg.quality` casts, judges and counts. So every row keeps the file and line it came from
until it is either clean or in the quarantine file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


class TimeUnit(StrEnum):
    """The unit of times that are given as numbers."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


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
    """

    source: str
    tables: Mapping[str, RawTable]
    refused: pa.Table = field(default_factory=REFUSALS.empty_table)
    left_out: Mapping[str, int] = field(default_factory=dict)


def with_origin(rows: pa.Table, file: str, lines: npt.NDArray[np.int64] | None = None) -> pa.Table:
    """Return `rows` with the `ORIGIN` columns; `lines [N]` are the row numbers from 1 if not given."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int32)), pa.array([file], pa.string()))
    numbers = np.arange(1, len(rows) + 1) if lines is None else lines
    return rows.append_column(FILE, names).append_column(LINE, pa.array(numbers, pa.int64()))


def refusals(table: str, file: str, rule: str, found: Sequence[tuple[int, str]]) -> pa.Table:
    """Return `REFUSALS` rows for whole lines: `found` holds (line, text)."""
    return pa.table(
        {
            "table": [table] * len(found),
            "file": [file] * len(found),
            "line": [line for line, _ in found],
            "field": [""] * len(found),
            "value": [text[:MAX_VALUE_CHARS] for _, text in found],
            "rule": [rule] * len(found),
        },
        schema=REFUSALS,
    )
