"""JSON lines: one object a line, columns by the names that occur."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kg.casting import is_missing
from kg.errors import DataError
from kg.sources.opening import text_lines
from kg.sources.raw import FileRows, encoded, refusals, with_origin

_BLOCK = 50_000
"""Lines turned into columns at a time, so that the objects of a large file are never all held at once."""

Row = dict[str, Any]


def read_json_lines(
    path: Path,
    table: str,
    *,
    row_of: Callable[[Row], Row] | None = None,
    parse: Callable[[str], Any] = json.loads,
    spelled: Collection[str] = frozenset(),
) -> FileRows:
    """Read a file of JSON lines, gzipped or not.

    Args:
        path: the file.
        table: the canonical table it is for, named in refusals.
        row_of: makes the row of a line's object; the object itself unless given.
        parse: reads a line; ValueError if it can't.
        spelled: columns that come as bytes, each value by itself as JSON spells it: 1 beside 2.5 stays 1.

    Raises:
        DataError: the file is not there, empty, truncated, or no line of it is an object.
    """
    blocks: list[pa.Table] = []
    rows: list[Row] = []
    lines: list[int] = []
    broken: list[tuple[int, str]] = []

    def finish_block() -> None:
        blocks.append(with_origin(_table(rows, spelled), path.name, np.array(lines, np.int64)))
        rows.clear()
        lines.clear()

    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = parse(line)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            rows.append(row_of(value) if row_of else value)
            lines.append(number)
        except (ValueError, RecursionError):
            broken.append((number, line))
        if len(rows) == _BLOCK:
            finish_block()
    if not blocks and not rows:
        place = f"line {broken[0][0]} is not a JSON object, nor is any other" if broken else "has no lines"
        raise DataError(f"{path} {place}", "Give one JSON object a line, or check the file's suffix.")
    if rows:
        finish_block()
    return FileRows(_concatenated(blocks), refusals(table, path, "json", broken))


def _table(rows: list[Row], spelled: Collection[str]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows], spelled=name in spelled) for name in names}
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})


def _column(values: list[Any], *, spelled: bool = False) -> pa.Array:
    """Return an array; where types are mixed, or text is none, as bytes that the quality check judges one by one."""
    if spelled:
        return pa.array([None if is_missing(value) else _as_bytes(value) for value in values], pa.binary())
    if any(isinstance(value, dict) for value in values):
        # As a struct, the column would get a field for every key that any row has.
        return pa.array([None if value is None else _as_bytes(value) for value in values], pa.binary())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if value is None else _as_bytes(value) for value in values], pa.binary())


def _as_bytes(value: Any) -> bytes:
    return encoded(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _concatenated(blocks: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(blocks, promote_options="permissive").unify_dictionaries()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # A column has one type in one block and another in the next.
        names = dict.fromkeys(name for block in blocks for name in block.column_names)
        return pa.table({name: _column([v for block in blocks for v in _values(block, name)]) for name in names})


def _values(block: pa.Table, name: str) -> list[Any]:
    return block[name].to_pylist() if name in block.column_names else [None] * len(block)
