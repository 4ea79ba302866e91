"""Rows of tables of any size. Arrow's own `take` puts a column's chunks together, and one chunk holds 2 GiB of text."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_ROWS_AT_ONCE = 100_000


def in_slices(table: pa.Table) -> Iterator[pa.Table]:
    """Yield a table in slices that are small enough for each column of one to be put together; one at least."""
    for start in range(0, max(len(table), 1), _ROWS_AT_ONCE):
        yield table.slice(start, _ROWS_AT_ONCE)


def taken(table: pa.Table, rows: npt.NDArray[np.integer]) -> pa.Table:
    """Return the rows of a table, in the order given; in as few chunks as hold them."""
    batches = table.to_batches()
    starts = np.cumsum([0, *map(len, batches)])
    pieces = [table.slice(0, 0)]
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        wanted = np.asarray(rows[begin : begin + _ROWS_AT_ONCE], np.int64)
        of = np.searchsorted(starts, wanted, "right") - 1
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(batches) + 1))
        found = [
            batch.take(pa.array(wanted[order[first:last]] - start))
            for batch, start, first, last in zip(batches, starts[:-1], bounds[:-1], bounds[1:], strict=True)
            if first < last
        ]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        pieces.append(pa.Table.from_batches(found).combine_chunks().take(pa.array(place)))
    return pa.concat_tables(pieces).combine_chunks()
