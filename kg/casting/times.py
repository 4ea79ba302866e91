"""Times in any unit or spelling to milliseconds since the epoch, UTC."""

from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting.arrays import Cast, Mask, nowhere, plain, true, valid, where
from kg.casting.scalars import NUMBER, numeric_text, to_float, to_int, whole_numbers


class TimeUnit(StrEnum):
    """The unit of times that are given as numbers."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


_FINER = {TimeUnit.MICROSECONDS: 1000, TimeUnit.NANOSECONDS: 1_000_000}
_MAX_SECONDS = 2**63 // 1000 - 1

_ZONE = r" ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?"
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?)?" + _ZONE + "$"


def to_time_ms(column: pa.ChunkedArray | pa.Array, unit: TimeUnit | None) -> Cast:
    """Cast times to int64 milliseconds.

    Timestamps and dates carry their unit; text is a number in `unit` (milliseconds if None) or ISO 8601, in UTC unless
    it has an offset.
    """
    array = plain(column)
    if pa.types.is_timestamp(array.type):
        return Cast(array.cast(pa.timestamp("ms", array.type.tz), safe=False).cast(pa.int64()), nowhere(array))
    if pa.types.is_date(array.type):
        return Cast(array.cast(pa.timestamp("ms")).cast(pa.int64()), nowhere(array))
    if pa.types.is_integer(array.type):
        return _whole(to_int(array), unit)
    text = numeric_text(array)
    if text is None:
        return _fractional(to_float(array, pa.float64()), unit)
    whole = whole_numbers(text)
    numeric = true(pc.match_substring_regex(text, NUMBER)) & ~whole
    iso = true(pc.match_substring_regex(text, _ISO))
    integers = _whole(to_int(where(text, whole)), unit)
    numbers = _fractional(to_float(where(text, numeric), pa.float64()), unit)
    times, unreadable = _iso_ms(where(text, iso))
    values = pc.coalesce(integers.values, numbers.values, times)
    return Cast(values, (valid(text) & ~whole & ~numeric & ~iso) | unreadable | numbers.bad | integers.bad)


def carries_unit(column: pa.ChunkedArray | pa.Array) -> Mask:
    """Return which times of a column need no unit `[N]`: timestamps and dates, and text in ISO 8601."""
    array = plain(column)
    if pa.types.is_temporal(array.type):
        return np.ones(len(array), np.bool_)
    text = None if pa.types.is_null(array.type) else numeric_text(array)
    return nowhere(array) if text is None else true(pc.match_substring_regex(text, _ISO))


def _whole(numbers: Cast, unit: TimeUnit | None) -> Cast:
    values, bad = numbers.values, numbers.bad
    if unit is TimeUnit.SECONDS:
        fits = true(pc.and_(pc.less_equal(values, _MAX_SECONDS), pc.greater_equal(values, -_MAX_SECONDS)))
        values, bad = pc.multiply(where(values, fits), 1000), bad | (valid(values) & ~fits)
    elif unit in _FINER:
        values = pc.divide(values, _FINER[unit])
    return Cast(values, bad)


def _fractional(numbers: Cast, unit: TimeUnit | None) -> Cast:
    values = numbers.values
    if unit is TimeUnit.SECONDS:
        values = pc.multiply(values, 1000.0)
    elif unit in _FINER:
        values = pc.divide(values, float(_FINER[unit]))
    ms = pc.round(values)
    fits = true(pc.less(pc.abs(ms), 2.0**63))
    return Cast(where(ms, fits).cast(pa.int64()), numbers.bad | (valid(ms) & ~fits))


def _iso_ms(text: pa.Array) -> tuple[pa.Array, Mask]:
    """Return ISO 8601 times in ms, and a mask of those that name no moment (the 31st of February)."""
    spelled = text
    for pattern, replacement in (
        (r"^([0-9-]{10}) ?(Z|UTC|[+-].*)?$", r"\1T00:00:00\2"),
        (r"^([0-9-]{10})[T ]([0-9]{2}:[0-9]{2}) ?(Z|UTC|[+-].*)?$", r"\1T\2:00\3"),
        (r"[.,]([0-9]{3})[0-9]+", r".\1"),
        (r",", "."),
        (r" ?(Z|UTC)$", ""),
        (r" ([+-])", r"\1"),
        (r"([0-9])([+-][0-9]{2})$", r"\1\2:00"),
        (r"([+-][0-9]{2})([0-9]{2})$", r"\1:\2"),
    ):
        spelled = pc.replace_substring_regex(spelled, pattern, replacement)
    zoned = true(pc.match_substring_regex(spelled, r":[0-9.]+[+-][0-9]{2}:[0-9]{2}$"))
    spelled = pc.if_else(pa.array(zoned), spelled, pc.binary_join_element_wise(spelled, "Z", ""))
    try:
        return _parsed(spelled), nowhere(text)
    except pa.ArrowInvalid:
        distinct = spelled.dictionary_encode()
        times = pa.array([_parsed_one(value) for value in distinct.dictionary], pa.int64()).take(distinct.indices)
        return times, valid(spelled) & ~valid(times)


def _parsed(spelled: pa.Array) -> pa.Array:
    return spelled.cast(pa.timestamp("ms", "UTC")).cast(pa.int64())


def _parsed_one(value: pa.Scalar) -> int | None:
    try:
        found: int = _parsed(pa.array([value.as_py()], pa.string()))[0].as_py()
    except pa.ArrowInvalid:
        return None
    return found
