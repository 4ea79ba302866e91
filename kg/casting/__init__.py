"""Columns of any type to canonical types, row by row: what can't be read is marked, never guessed."""

import pyarrow as pa

from kg.casting.arrays import Cast, Mask, plain
from kg.casting.nested import as_text, attribute_texts, is_encodable, is_missing, to_attributes, to_path
from kg.casting.scalars import is_text, to_bool, to_float, to_int, to_string
from kg.casting.times import TimeUnit, carries_unit, to_time_ms

__all__ = [
    "Cast",
    "Mask",
    "TimeUnit",
    "as_text",
    "attribute_texts",
    "carries_unit",
    "cast",
    "is_encodable",
    "is_missing",
    "is_text",
    "plain",
    "to_time_ms",
]


def cast(column: pa.ChunkedArray | pa.Array, target: pa.DataType) -> Cast:
    """Cast a column to the type of a canonical column other than a time."""
    array = plain(column)
    if pa.types.is_string(target):
        return to_string(array)
    if pa.types.is_int64(target):
        return to_int(array)
    if pa.types.is_floating(target):
        return to_float(array, target)
    if pa.types.is_boolean(target):
        return to_bool(array)
    if pa.types.is_list(target):
        return to_path(array)
    return to_attributes(array)
