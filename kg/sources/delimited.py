"""Delimited text, mostly with a header: CSV, TSV and RecBole's atomic files."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from kg.casting import Mask
from kg.errors import DataError
from kg.sources.opening import is_gzip, is_utf8, reading, text_lines
from kg.sources.quotes import require_closed_quotes
from kg.sources.raw import FileRows, refusals, with_origin

_BYTEWISE = "latin-1"
_BLOCK_BYTES = 8 << 20
"""Read at a time; a row may go on into the next block, and no further."""
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def read_delimited(
    path: Path, table: str, *, delimiter: str, quoted: bool = True, columns: Sequence[str] = ()
) -> FileRows:
    """Read delimited text, gzipped or not; every column comes as bytes, for the quality check to cast.

    Args:
        path: the file.
        table: the canonical table it is for, named in refusals.
        delimiter: one character.
        quoted: fields may stand in double quotes, with delimiters and line ends inside.
        columns: names of the columns of a file without a header.

    Raises:
        DataError: the file is not there, empty, truncated, not UTF-8 in its header, or of another delimiter; or it has
            a quote that is not closed.
    """
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise DataError(f"{delimiter!r} can't be a delimiter", "Give one character, such as --delimiter ';'.")
    header = list(columns) or _header(path, delimiter, quoted)
    first_line = 1 if columns else 2
    invalid: list[tuple[int, str]] = []

    def keep_invalid(row: Any) -> str:
        invalid.append((row.number, row.text))
        return "skip"

    # Arrow hands rows that it can't split to Python as UTF-8. In a file that is not, every byte is read as one letter.
    utf8 = is_utf8(path)
    with reading(path), _long_rows_named(path, delimiter, header, quoted):
        rows = pa_csv.read_csv(
            pa.input_stream(str(path), compression="gzip" if is_gzip(path) else None),
            # One thread: only then does Arrow tell the numbers of the rows that it can't split.
            read_options=pa_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                encoding="utf-8" if utf8 else _BYTEWISE,
                column_names=list(columns),
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=keep_invalid,
            ),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.binary())),
        )
    if rows.column_names != header:
        raise DataError(f"{path} line 1: the header can't be read", "Write it as one line of plain names.")
    if not utf8:
        rows = pa.table({name: _original_bytes(rows[name]) for name in rows.column_names})
    skipped = np.array([number for number, _ in invalid], np.int64)
    lines = np.setdiff1d(np.arange(first_line, len(rows) + len(skipped) + first_line), skipped, assume_unique=True)
    found = [(line, text) for line, text in invalid if text.strip()]
    spanning = sum(_with_line_ends(rows[name]) for name in header) if quoted else 0
    if spanning or (quoted and any("\n" in text or "\r" in text for _, text in found)):
        require_closed_quotes(path, delimiter, header, max_row_bytes=2 * _BLOCK_BYTES)
    there = _not_blank(rows)
    if not there.all():
        rows, lines = rows.filter(pa.array(there)), lines[there]
    return FileRows(
        with_origin(rows, path.name, lines),
        refusals(table, path, "columns", found),
        (f"{path.name}: values that span several lines: {spanning:,}",) if spanning else (),
    )


@contextmanager
def _long_rows_named(path: Path, delimiter: str, header: list[str], quoted: bool) -> Iterator[None]:
    """Say what is behind a row that is longer than a block."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        if quoted:
            require_closed_quotes(path, delimiter, header, max_row_bytes=2 * _BLOCK_BYTES)
        raise DataError(
            f"{path} has a row of more than {_BLOCK_BYTES >> 20} MiB", "Check its line ends, or shorten the row."
        ) from error


def _with_line_ends(column: pa.ChunkedArray) -> int:
    """Return how many values hold the end of a line."""
    ends = pc.or_(pc.match_substring(column, "\n"), pc.match_substring(column, "\r"))
    return int(pc.sum(ends).as_py() or 0)


def _original_bytes(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([value.decode("utf-8").encode(_BYTEWISE) for value in column.to_pylist()], pa.binary())


def _not_blank(rows: pa.Table) -> Mask:
    """Return which rows have anything in them `[N]`."""
    there: Mask = np.logical_or.reduce([np.asarray(pc.not_equal(column, b""), dtype=bool) for column in rows.columns])
    return there


def _header(path: Path, delimiter: str, quoted: bool) -> list[str]:
    # A carriage return alone ends a line too, as Arrow has it.
    first = next(text_lines(path)).rstrip("\n").partition("\r")[0]
    if "\x00" in first or any("\udc80" <= letter <= "\udcff" for letter in first):
        raise DataError(f"{path} line 1 is not UTF-8 text", "Write the file as UTF-8 with a header line.")
    try:
        # Without quotes every field is plain text: a space-free split says the same as csv with QUOTE_NONE.
        names = next(csv.reader([first], delimiter=delimiter, strict=True), []) if quoted else first.split(delimiter)
    except csv.Error as error:
        raise DataError(f"{path} line 1: the header can't be read ({error})", "Check its quotes.") from error
    if not any(name.strip() for name in names):
        raise DataError(f"{path} line 1 has no column names", "Give a header line.")
    other = next((name for char, name in _DELIMITERS.items() if char != delimiter and char in first), None)
    if len(names) == 1 and other:
        used = _DELIMITERS.get(delimiter, repr(delimiter))
        raise DataError(
            f"{path} line 1 is one column if the delimiter is a {used}, but it has a {other} in it",
            "Give the right one with --delimiter.",
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} line 1 has column {repeated[0]!r} twice", "Rename one of them.")
    return names
