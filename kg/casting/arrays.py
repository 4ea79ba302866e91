"""Arrow arrays with a mask beside them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import DataError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cast:
    """A column in its canonical type.

    Args:
        values: the values `[N]`, null where missing or bad.
        bad: `[N]`, where there is a value that can't be read.
        rule: what the bad values break.
    """

    values: pa.Array
    bad: Mask
    rule: str = "type"


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array without a dictionary.

    Raises:
        DataError: it holds more than one array can.
    """
    try:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    except (pa.ArrowInvalid, pa.ArrowCapacityError) as error:
        raise DataError(
            f"a column of {column.type} with {len(column):,} rows holds more than 2 GiB, which can't be read at once",
            "Load it in parts: write its rows into several files, equal ones into one, and load one after another.",
        ) from error


def where(array: pa.Array, keep: Mask) -> pa.Array:
    """Return the array with null where `keep [N]` is not set."""
    return array if keep.all() else pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))


def true(mask: pa.Array) -> Mask:
    """Return a boolean array as a mask; null is false."""
    return np.asarray(pc.fill_null(mask, False), dtype=bool)


def valid(array: pa.Array) -> Mask:
    """Return where the array has values."""
    return np.asarray(array.is_valid(), dtype=bool)


def nowhere(array: pa.Array) -> Mask:
    """Return a mask that marks nothing."""
    return np.zeros(len(array), bool)


def all_bad(array: pa.Array, target: pa.DataType) -> Cast:
    """Return nulls, with every value that is there marked."""
    return Cast(pa.nulls(len(array), target), valid(array))
