"""Amazon's "ratings only" files: user, product, stars and time as CSV, without a header until 2023.

In 2014 the user comes first, in 2018 the product; times are seconds, since 2023 milliseconds. Without a header the
column of products is known by its ASINs, which have ten characters each, as no column of users has.
"""

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import DataError
from kg.sources.delimited import read_delimited
from kg.sources.opening import text_lines
from kg.sources.raw import ORIGIN, FileRows

_ASIN_CHARACTERS = 10
_LOOKED_AT = 1000
_WITHOUT_HEADER = ("first", "second", "rating", "timestamp")
_OF_2023 = {"user_id": "user_id", "parent_asin": "product_id", "rating": "value", "timestamp": "at_ms"}


def is_ratings(path: Path) -> bool:
    """Return whether a file is named as one of ratings."""
    return path.name.lower().removesuffix(".gz").endswith(".csv")


def read_ratings(path: Path) -> FileRows:
    """Read one file of ratings, gzipped or not: interactions of type `rate`, times in milliseconds.

    Raises:
        DataError: it can't be read, or does not have the columns of such a file.
    """
    first = [line.rstrip("\r\n").split(",") for line in islice(text_lines(path), _LOOKED_AT)]
    if "rating" in first[0]:
        missing = sorted(set(_OF_2023) - set(first[0]))
        if missing:
            raise DataError(f"{path} line 1 has no column {missing[0]!r}", "Give a ratings-only file of 2023.")
        found = read_delimited(path, "interactions", delimiter=",")
        columns = {ours: found.rows[theirs] for theirs, ours in _OF_2023.items()}
    else:
        found = read_delimited(path, "interactions", delimiter=",", columns=_WITHOUT_HEADER)
        product, user = _places(path, first)
        columns = {
            "user_id": found.rows[user],
            "product_id": found.rows[product],
            "value": found.rows["rating"],
            "at_ms": _milliseconds(found.rows["timestamp"]),
        }
    kind = pa.repeat(pa.scalar("rate"), len(found.rows))
    rows = pa.table(columns | {"type": kind} | {name: found.rows[name] for name in ORIGIN})
    return FileRows(rows, found.refused, found.notes)


def _places(path: Path, first: list[list[str]]) -> tuple[str, str]:
    """Return the names of the columns of products and of users."""
    rows = [row for row in first if len(row) == len(_WITHOUT_HEADER)]
    are_asins = [bool(rows) and all(len(row[place]) == _ASIN_CHARACTERS for row in rows) for place in (0, 1)]
    if are_asins[0] == are_asins[1]:
        raise DataError(
            f"{path}: its first {len(first):,} lines don't tell which column has the products "
            "(four columns without a header, and ten characters in each product id)",
            "Give it a header line, and load it by kgrank load tables.",
        )
    return ("first", "second") if are_asins[0] else ("second", "first")


def _milliseconds(seconds: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return whole seconds as milliseconds, all in text; what is no number stays, for the quality check to find."""
    whole = pc.match_substring_regex(seconds, r"^[0-9]+(\.0*)?$")
    digits = pc.replace_substring_regex(seconds, r"\.0*$", "")
    return pc.if_else(whole, pc.binary_join_element_wise(digits, b"000", b""), seconds)
