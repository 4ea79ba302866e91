"""Rows of the store that are whole.

Neo4j reads what is committed at that moment, property by property: of a node that another transaction removes meanwhile
it may return a part, and nothing for the rest.
"""

from collections.abc import Callable, Collection
from typing import Any

_TIMES = 3


def whole_rows(read: Callable[[], list[list[Any]]], columns: Collection[int]) -> list[list[Any]]:
    """Return the rows of a query, none of which is of something that was just removed.

    Args:
        read: runs it; called again while a row is not whole, so that a page is as full as it can be.
        columns: which are there in every whole row.
    """
    rows: list[list[Any]] = []
    for _ in range(_TIMES):
        rows = read()
        if all(is_whole(row, columns) for row in rows):
            return rows
    return [row for row in rows if is_whole(row, columns)]


def is_whole(row: list[Any], columns: Collection[int]) -> bool:
    """Return whether a row has all that a whole one has in some columns."""
    return all(row[column] is not None for column in columns)
