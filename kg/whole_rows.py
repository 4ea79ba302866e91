"""Rows of the store that are whole.

Neo4j reads what is committed at that moment, property by property: of a node that another transaction removes meanwhile
it may return a part, and nothing for the rest; of one that is changed, some properties as before and some as after.
"""

from collections.abc import Callable, Collection
from typing import Any

_TIMES = 4


def whole_rows(
    read: Callable[[], list[list[Any]]],
    columns: Collection[int],
    *,
    alike: tuple[int, int] | None = None,
    steady: bool = False,
) -> list[list[Any]]:
    """Return the rows of a query, none of which is of something that was just removed.

    Args:
        read: runs it; called again while a row is not whole, so that a page is as full as it can be.
        columns: which are there in every whole row.
        alike: two columns that hold lists of one length.
        steady: read on until two answers in a row are the same, so that none mixes what was with what is; under changes
            without a pause the last one is taken. For what is small: it is read twice at least.
    """
    rows: list[list[Any]] = []
    before: list[list[Any]] | None = None
    for _ in range(_TIMES):
        rows = read()
        if all(is_whole(row, columns, alike) for row in rows) and (not steady or rows == before):
            return rows
        before = rows
    return [row for row in rows if is_whole(row, columns, alike)]


def is_whole(row: list[Any], columns: Collection[int], alike: tuple[int, int] | None = None) -> bool:
    """Return whether a row has all that a whole one has in some columns, and lists of one length in two."""
    if any(row[column] is None for column in columns):
        return False
    return alike is None or len(row[alike[0]]) == len(row[alike[1]])
