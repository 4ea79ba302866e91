"""Quotes that nobody closed: each takes in the rows after it, and Arrow says nothing of it."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kg.errors import DataError
from kg.sources.opening import text_lines


def require_closed_quotes(path: Path, delimiter: str, columns: Sequence[str], *, max_row_bytes: int) -> None:
    """Read a file once more, row by row, and check that every value that spans lines is a quoted one.

    Raises:
        DataError: a quote is not closed, or something other than a delimiter follows the one that closes it.
    """
    seen: list[str] = []

    def remembered() -> Iterator[str]:
        for line in text_lines(path, newline=""):
            seen.append(line)
            yield line

    reader = csv.reader(remembered(), delimiter=delimiter, strict=True)
    with _field_limit(max_row_bytes):
        while True:
            first = reader.line_num + 1
            seen.clear()
            try:
                next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # A row of one line may have odd quotes: it takes nothing in.
                if reader.line_num > first or "unexpected end" in str(error):
                    raise DataError(
                        f"{path} line {first:,}, column {_column(seen[0], delimiter, columns)}: "
                        "a quote that is not closed takes in the lines after it",
                        'Close it, or leave it out. A quote inside a quoted value is written twice: "24"" monitor".',
                    ) from error


def _column(line: str, delimiter: str, columns: Sequence[str]) -> str:
    """Return the name of a line's last column, in which the quote is that the line leaves open."""
    values = next(csv.reader([line], delimiter=delimiter), [])
    return repr(columns[min(len(values), len(columns)) - 1])


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)
