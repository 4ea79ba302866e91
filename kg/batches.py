"""Tables in pieces that fit a transaction: bounded by rows and by bytes."""

from collections.abc import Iterator

import pyarrow as pa

MAX_ROWS = 10_000
MAX_BYTES = 8 * 1024 * 1024


def batches(table: pa.Table, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> Iterator[pa.Table]:
    """Yield a table in slices of at most `max_rows` rows and `max_bytes` bytes; a larger single row goes alone."""
    for start in range(0, len(table), max_rows):
        yield from _halves(table.slice(start, max_rows), max_bytes)


def _halves(piece: pa.Table, max_bytes: int) -> Iterator[pa.Table]:
    if len(piece) <= 1 or piece.nbytes <= max_bytes:
        yield piece
        return
    middle = len(piece) // 2
    yield from _halves(piece.slice(0, middle), max_bytes)
    yield from _halves(piece.slice(middle), max_bytes)
