"""Columns of any type to canonical types, row by row: what can't be read is marked, never guessed."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.sources.raw import TimeUnit
from kg.tables import ATTRIBUTES

Mask = npt.NDArray[np.bool_]

PATH_SEPARATOR = " > "
"""Splits a category path that comes as one string."""

_INTEGER = r"^[+-]?[0-9]{1,18}(\.0*)?$"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_ISO_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?$"
)
_ZONE = r"(Z|[+-][0-9]{2}:?[0-9]{2})$"


@dataclass(frozen=True)
class Cast:
    """A column in its canonical type: `values [N]`, null where missing or bad; `bad [N]` where a value can't be read."""

    values: pa.Array
    bad: Mask
    rule: str = "type"


def cast(column: pa.ChunkedArray | pa.Array, target: pa.DataType) -> Cast:
    """Cast a column to the type of a canonical column other than a time."""
    array = _plain(column)
    if pa.types.is_string(target):
        return to_string(array)
    if pa.types.is_int64(target):
        return to_int(array)
    if pa.types.is_floating(target):
        return to_float(array, target)
    if pa.types.is_list(target):
        return to_path(array)
    return to_attributes(array)


def to_string(array: pa.Array) -> Cast:
    """Cast ids and texts; numbers are written as integers where they are whole."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _checked_utf8(array.cast(pa.binary()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _checked_utf8(array.cast(pa.binary()))
    if pa.types.is_floating(kind):
        whole = to_int(array)
        return Cast(whole.values.cast(pa.string()), whole.bad)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind):
        return Cast(array.cast(pa.string()), _none(array))
    return _all_bad(array, pa.string())


def to_int(array: pa.Array) -> Cast:
    """Cast whole numbers; text is read as decimal."""
    if pa.types.is_integer(array.type):
        fits = _true(pc.less_equal(array, 2**63 - 1)) if pa.types.is_uint64(array.type) else _valid(array)
        return Cast(_where(array, fits).cast(pa.int64()), _valid(array) & ~fits)
    if pa.types.is_floating(array.type):
        numbers = array.cast(pa.float64())
        whole = _true(pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**63)))
        missing = ~_valid(array) | _true(pc.is_nan(numbers))
        return Cast(_where(numbers, whole).cast(pa.int64()), ~missing & ~whole)
    text = _numeric_text(array)
    if text is None:
        return _all_bad(array, pa.int64())
    good = _true(pc.match_substring_regex(text, _INTEGER))
    plain = pc.replace_substring_regex(_where(text, good), r"^\+|\.0*$", "")
    return Cast(plain.cast(pa.int64()), _valid(text) & ~good)


def to_float(array: pa.Array, target: pa.DataType) -> Cast:
    """Cast numbers; NaN counts as missing, infinity is kept for the range rule."""
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        numbers = array.cast(pa.float64(), safe=False)
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        return Cast(numbers.cast(target, safe=False), _none(array))
    text = _numeric_text(array)
    if text is None:
        return _all_bad(array, target)
    missing = _true(pc.is_in(pc.utf8_lower(text), value_set=pa.array(["nan", "null", "none", "na"])))
    good = _true(pc.match_substring_regex(text, _NUMBER))
    return Cast(_where(text, good).cast(pa.float64()).cast(target, safe=False), _valid(text) & ~good & ~missing)


def to_time_ms(column: pa.ChunkedArray | pa.Array, unit: TimeUnit | None) -> Cast:
    """Cast times to int64 milliseconds since the epoch, UTC.

    Timestamps and dates carry their unit; text is a number in `unit` or ISO 8601 (UTC unless it has an offset).
    """
    array = _plain(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        in_ms = array.cast(pa.timestamp("ms"), safe=False) if pa.types.is_date(array.type) else array
        zone = getattr(in_ms.type, "tz", None)
        return Cast(in_ms.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64()), _none(array))
    text = _numeric_text(array)
    if text is None:
        return (
            _scaled(to_float(array, pa.float64()), unit) if not pa.types.is_integer(array.type) else _exact(array, unit)
        )
    numeric = _true(pc.match_substring_regex(text, _NUMBER))
    if numeric.all():
        whole = _true(pc.match_substring_regex(text, _INTEGER)).all()
        return _exact(to_int(text).values, unit) if whole else _scaled(to_float(text, pa.float64()), unit)
    iso = _true(pc.match_substring_regex(text, _ISO_TIME))
    numbers = _scaled(to_float(_where(text, numeric), pa.float64()), unit)
    times, unreadable = _iso_ms(_where(text, iso))
    values = pc.if_else(pa.array(numeric), numbers.values, times)
    return Cast(values, _valid(text) & ((~numeric & ~iso) | unreadable | numbers.bad))


def _iso_ms(text: pa.Array) -> tuple[pa.Array, Mask]:
    padded = pc.replace_substring_regex(text, r"^([0-9-]{10})$", r"\1T00:00:00")
    padded = pc.replace_substring_regex(padded, r"^([0-9-]{10}[T ][0-9]{2}:[0-9]{2})(Z|[+-].*)?$", r"\1:00\2")
    zoned = _true(pc.match_substring_regex(pc.utf8_slice_codeunits(padded, 10), _ZONE))
    padded = pc.if_else(pa.array(zoned), padded, pc.binary_join_element_wise(padded, "Z", ""))
    stamp = pa.timestamp("ms", "UTC")
    padded = pc.replace_substring_regex(padded, r"(\.[0-9]{3})[0-9]+", r"\1")
    try:
        return padded.cast(stamp).cast(pa.int64()), np.zeros(len(text), bool)
    except pa.ArrowInvalid:  # the 31st of February: find which
        unique = padded.dictionary_encode()
        each = [_one_time(value, stamp) for value in unique.dictionary.to_pylist()]
        times = pa.array(each, pa.int64()).take(unique.indices)
        return times, _valid(padded) & ~_valid(times)


def _one_time(value: str, stamp: pa.DataType) -> int | None:
    try:
        found: int = pa.array([value]).cast(stamp).cast(pa.int64())[0].as_py()
    except pa.ArrowInvalid:
        return None
    return found


def _exact(array: pa.Array, unit: TimeUnit | None) -> Cast:
    whole = to_int(array)
    values, bad = whole.values, whole.bad
    if unit is TimeUnit.SECONDS:
        fits = _true(pc.less(pc.abs_checked(values.cast(pa.float64())), 9.2e15))
        values, bad = pc.multiply(_where(values, fits), 1000), bad | (_valid(values) & ~fits)
    elif unit in (TimeUnit.MICROSECONDS, TimeUnit.NANOSECONDS):
        values = pc.divide(values, 1000 if unit is TimeUnit.MICROSECONDS else 1_000_000)
    return Cast(values, bad)


def _scaled(numbers: Cast, unit: TimeUnit | None) -> Cast:
    per_unit = {TimeUnit.SECONDS: 1e3, TimeUnit.MICROSECONDS: 1e-3, TimeUnit.NANOSECONDS: 1e-6}
    ms = pc.floor(pc.multiply(numbers.values, per_unit.get(unit, 1.0) if unit else 1.0))
    fits = _true(pc.less(pc.abs(ms), 9.2e18))
    return Cast(_where(ms, fits).cast(pa.int64()), numbers.bad | (_valid(ms) & ~fits))


def to_path(array: pa.Array) -> Cast:
    """Cast a category path: a list of strings, or one string split at `PATH_SEPARATOR`; empty parts are left out."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
        parts = to_string(_plain(array.values))
        offsets, lists = array.offsets.to_numpy(), array
        bad = np.zeros(len(array), bool)
        bad_before = np.concatenate([[0], np.cumsum(parts.bad)])
        bad |= bad_before[offsets[1:]] > bad_before[offsets[:-1]]
        values, rule = parts.values, parts.rule
    else:
        text = to_string(array)
        lists = pc.split_pattern(_blank_is_null(text.values), PATH_SEPARATOR)
        offsets, values, bad, rule = lists.offsets.to_numpy(), lists.values, text.bad, text.rule
    trimmed = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    keep = np.asarray(pc.not_equal(trimmed, ""))
    inside = np.zeros(len(keep), bool)
    inside[offsets[0] : offsets[-1]] = True
    kept_before = np.concatenate([[0], np.cumsum(keep & inside)])
    path = pa.ListArray.from_arrays(pa.array(kept_before[offsets], pa.int32()), trimmed.filter(pa.array(keep & inside)))
    return Cast(path.cast(pa.list_(pa.string())), bad, rule)


def to_attributes(array: pa.Array) -> Cast:
    """Cast key-value pairs: a map, a struct, or text with a JSON object; empty values are left out."""
    kind = array.type
    if pa.types.is_null(kind):
        return Cast(array.cast(ATTRIBUTES), _none(array))
    if pa.types.is_map(kind):
        return _distinct(array, lambda value: dict(value))
    if pa.types.is_struct(kind):
        return _distinct(array, lambda value: value)
    text = to_string(array)
    parsed = _distinct(_blank_is_null(text.values), _json_object)
    return Cast(parsed.values, parsed.bad | text.bad, text.rule if text.bad.any() else parsed.rule)


def _distinct(array: pa.Array, parse: Callable[[object], object]) -> Cast:
    pairs: list[list[tuple[str, str]] | None] = []
    bad = np.zeros(len(array), bool)
    for row, value in enumerate(array.to_pylist()):
        if value is None:
            pairs.append([])
            continue
        try:
            found = parse(value)
            if not isinstance(found, dict):
                raise ValueError("not an object")
            pairs.append(sorted((str(key), as_text(item)) for key, item in found.items() if item not in (None, "", [])))
        except ValueError:
            bad[row] = True
            pairs.append(None)
    return Cast(pa.array(pairs, ATTRIBUTES), bad)


def _json_object(value: object) -> object:
    return json.loads(str(value))


def as_text(value: object) -> str:
    """Return a value as attribute text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _checked_utf8(array: pa.Array) -> Cast:
    try:
        return Cast(array.cast(pa.string()), _none(array))
    except pa.ArrowInvalid:
        values = [_decoded(value) for value in array.to_pylist()]
        text = pa.array(values, pa.string())
        return Cast(text, _valid(array) & ~_valid(text), "encoding")


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _numeric_text(array: pa.Array) -> pa.Array | None:
    kind = array.type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)
    ):
        return None
    # Bytes that are not UTF-8 become U+FFFD, which no number or time has.
    text = (
        pa.array([None if v is None else v.decode("utf-8", "replace") for v in array.to_pylist()], pa.string())
        if (pa.types.is_binary(kind) and to_string(array).bad.any())
        else array.cast(pa.string())
    )
    return _blank_is_null(text)


def _blank_is_null(text: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than 2 GiB of text in one column
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _where(array: pa.Array, keep: Mask) -> pa.Array:
    return pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))


def _true(mask: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(mask, False), dtype=bool)


def _valid(array: pa.Array) -> Mask:
    return np.asarray(array.is_valid(), dtype=bool)


def _none(array: pa.Array) -> Mask:
    return np.zeros(len(array), bool)


def _all_bad(array: pa.Array, target: pa.DataType) -> Cast:
    return Cast(pa.nulls(len(array), target), _valid(array))
