"""Files as raw tables: CSV, JSON lines and Parquet, gzipped or not, with one clear error for a file that is broken."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kg.errors import DataError
from kg.sources.raw import REFUSALS, refusals, with_origin

_GZIP = b"\x1f\x8b"
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True)
class FileRows:
    """A file's rows with `ORIGIN` columns, and the lines that could not be split into columns (`REFUSALS`)."""

    rows: pa.Table
    refused: pa.Table


def read_file(path: Path, table: str, *, delimiter: str | None = None) -> FileRows:
    """Read a file by its suffix: .csv, .tsv, .jsonl, .json, .ndjson or .parquet; text may be gzipped (.gz).

    Args:
        path: the file.
        table: the canonical table it is for, named in errors and refusals.
        delimiter: of a .csv file; a comma unless given.

    Raises:
        DataError: the file is not there, empty, truncated, or not what its suffix says.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        return read_parquet(path)
    if kind in ("csv", "tsv"):
        return read_csv(path, table, delimiter=delimiter or ("\t" if kind == "tsv" else ","))
    if kind in ("json", "jsonl", "ndjson"):
        return read_json_lines(path, table)
    raise DataError(
        f"{table}: {path} has no known suffix", "Name it .csv, .tsv, .jsonl or .parquet (.gz for gzipped text)."
    )


def read_csv(path: Path, table: str, *, delimiter: str, quoted: bool = True) -> FileRows:
    """Read delimited text with a header; every column comes as bytes, for `kg.quality` to cast."""
    header = _header(path, delimiter, quoted)
    invalid: list[tuple[int, str]] = []

    def keep_invalid(row: Any) -> str:
        invalid.append((row.number, row.text))
        return "skip"

    with _reading(path):
        rows = pa_csv.read_csv(
            pa.input_stream(str(path), compression="gzip" if _is_gzip(path) else None),
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=keep_invalid,
            ),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.binary())),
        )
    skipped = np.array([number for number, _ in invalid], np.int64)
    lines = np.setdiff1d(np.arange(2, len(rows) + len(skipped) + 2), skipped, assume_unique=True)
    rows = with_origin(rows, path.name, lines)
    blank = np.logical_and.reduce([np.asarray(pc.equal(rows[name], b""), dtype=bool) for name in header])
    if blank.any():
        rows = rows.filter(pa.array(~blank))
    found = [(line, text) for line, text in invalid if text.strip()]
    return FileRows(rows, refusals(table, path.name, "column_count", found))


def read_json_lines(
    path: Path,
    table: str,
    columns: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    parse: Callable[[str], Any] = json.loads,
    block: int = 50_000,
) -> FileRows:
    """Read one JSON object a line.

    Args:
        path: the file.
        table: the canonical table it is for.
        columns: the row to keep of an object; the object itself by default.
        parse: reads one line; raises ValueError where it is not an object.
        block: lines turned into columns at a time, so that the objects of a large file are not all held at once.
    """
    blocks: list[pa.Table] = []
    broken: list[tuple[int, str]] = []
    values: list[dict[str, Any]] = []
    lines: list[int] = []

    def flush() -> None:
        blocks.append(with_origin(_columns(values), path.name, np.array(lines, np.int64)))
        values.clear()
        lines.clear()

    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = parse(line)
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            broken.append((number, line))
            continue
        values.append(columns(value) if columns else value)
        lines.append(number)
        if len(values) == block:
            flush()
    if not blocks and not values and broken:
        raise DataError(
            f"{path} line {broken[0][0]} is not a JSON object, nor is any other line",
            "Give one JSON object a line, or check the suffix.",
        )
    flush()
    rows = _concatenated([block for block in blocks if len(block)] or blocks[:1])
    return FileRows(rows, refusals(table, path.name, "json", broken))


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> FileRows:
    """Read a Parquet file."""
    _size(path)
    with _reading(path):
        rows = pq.read_table(path, columns=list(columns) if columns else None)
    return FileRows(with_origin(rows.replace_schema_metadata(None), path.name), REFUSALS.empty_table())


def text_lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines; bytes that are not UTF-8 come as lone surrogates, for `kg.quality` to find."""
    _size(path)
    number = 0
    with _reading(path, lambda: number):
        raw: IO[bytes] = gzip.open(path) if _is_gzip(path) else path.open("rb")
        with raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007  read by the error's line number
                yield line
    if not number:
        raise DataError(f"{path} is empty", "Check that it was written or downloaded whole.")


def _header(path: Path, delimiter: str, quoted: bool) -> list[str]:
    first = next(text_lines(path)).rstrip("\r\n")
    if first.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise DataError(f"{path} is UTF-16", "Write it as UTF-8.")
    if "\x00" in first or "\udc80" <= max(first, default="") <= "\udcff":
        raise DataError(f"{path} line 1 is not UTF-8 text", "Write the file as UTF-8 text with a header line.")
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        names = next(csv.reader([first], delimiter=delimiter, quoting=quoting, strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path} line 1: the header can't be read ({error})", "Check its quotes.") from error
    others = [name for char, name in _DELIMITERS.items() if char != delimiter and first.count(char) > 0]
    if len(names) == 1 and others:
        raise DataError(
            f"{path} line 1 has one column where the delimiter is a {_DELIMITERS.get(delimiter, repr(delimiter))}, "
            f"but it holds a {others[0]}",
            "Give the right one with --delimiter.",
        )
    if not any(name.strip() for name in names):
        raise DataError(f"{path} line 1 has no column names", "Give a header line.")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{path} line 1 names column {min(repeated)} twice", "Rename one of them.")
    return names


def _columns(values: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for value in values for name in value)
    return pa.table({name: _column([value.get(name) for value in values]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Return an array; values of mixed types become text, so that the rule on types sees each."""
    try:
        array = pa.array(values)
        if not (pa.types.is_list(array.type) or pa.types.is_struct(array.type)):
            return array
        return array
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if value is None else _bytes(value) for value in values], pa.binary())


def _bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape" if "\udc80" <= max(text, default="") <= "\udcff" else "surrogatepass")


def _concatenated(blocks: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(blocks, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # A column is a number in one block and text in another: text throughout.
        names = dict.fromkeys(name for block in blocks for name in block.column_names)
        columns = {name: _column([value for block in blocks for value in _values(block, name)]) for name in names}
        return pa.table(columns)


def _values(block: pa.Table, name: str) -> list[Any]:
    return block[name].to_pylist() if name in block.column_names else [None] * len(block)


def _size(path: Path) -> int:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {problem}", "Check the path.")
    size = path.stat().st_size
    if not size:
        raise DataError(f"{path} is empty", "Check that it was written or downloaded whole.")
    return size


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


@contextmanager
def _reading(path: Path, line: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn what can go wrong in a file's bytes into one error that names the file."""
    place = lambda: f" after line {line()}" if line else ""  # noqa: E731
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged gzip{place()}: {error}", "Download it again.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} can't be read: {reason}", "Check that the file is whole and of its type.") from error
    except OSError as error:
        reason = "truncated or damaged gzip" if "compressed" in str(error) or "zlib" in str(error) else str(error)
        raise DataError(f"{path} can't be read: {reason}", "Check that it was downloaded whole.") from error
