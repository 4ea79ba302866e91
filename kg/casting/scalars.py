"""Texts and numbers."""

import pyarrow as pa
import pyarrow.compute as pc

from kg.casting.arrays import Cast, Mask, all_bad, nowhere, true, valid, where

_INTEGER = r"^[+-]?0*[0-9]{1,19}(\.0*)?$"
_DIGITS = 19
_LARGEST = str(2**63 - 1)
"""Of as many digits, so that texts of them compare as numbers do."""
NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_MISSING = pa.array(["nan", "null", "none", "na", "n/a"])
_YES = pa.array(["true", "t", "yes", "y", "1", "1.0", "in stock", "instock", "available"])
_NO = pa.array(["false", "f", "no", "n", "0", "0.0", "out of stock", "outofstock", "unavailable"])
INT64_END = 2.0**63


def to_string(array: pa.Array) -> Cast:
    """Cast ids and texts; numbers are written as integers where they are whole."""
    kind = array.type
    if is_text(kind):
        return _utf8(array.cast(pa.binary()))
    if pa.types.is_floating(kind):
        whole = to_int(array)
        return Cast(whole.values.cast(pa.string()), whole.bad)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind):
        return Cast(array.cast(pa.string()), nowhere(array))
    if pa.types.is_decimal(kind):
        whole = pc.replace_substring_regex(_decimal_text(array), r"\.0*$", "")
        good = true(pc.match_substring_regex(whole, r"^-?[0-9]+$"))
        return Cast(where(whole, good), valid(array) & ~good)
    return all_bad(array, pa.string())


def to_int(array: pa.Array) -> Cast:
    """Cast whole numbers; text is read as decimal."""
    if pa.types.is_integer(array.type):
        fits = true(pc.less_equal(array, 2**63 - 1)) if pa.types.is_uint64(array.type) else valid(array)
        return Cast(where(array, fits).cast(pa.int64()), valid(array) & ~fits)
    if pa.types.is_floating(array.type):
        numbers = array.cast(pa.float64())
        whole = true(pc.equal(pc.floor(numbers), numbers)) & true(pc.less(pc.abs(numbers), INT64_END))
        missing = ~valid(array) | true(pc.is_nan(numbers))
        return Cast(where(numbers, whole).cast(pa.int64()), ~missing & ~whole)
    text = numeric_text(array)
    if text is None:
        return all_bad(array, pa.int64())
    good = whole_numbers(text)
    digits = pc.replace_substring_regex(where(text, good), r"^\+|\.0*$", "")
    return Cast(digits.cast(pa.int64()), valid(text) & ~good & ~_missing(text))


def to_float(array: pa.Array, target: pa.DataType) -> Cast:
    """Cast numbers; NaN counts as missing, infinity is left for the range rules."""
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = array.cast(pa.float64(), safe=False)
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        return Cast(numbers.cast(target, safe=False), nowhere(array))
    text = numeric_text(array)
    if text is None:
        return all_bad(array, target)
    good = true(pc.match_substring_regex(text, NUMBER))
    digits = pc.replace_substring_regex(where(text, good), r"^\+", "")
    return Cast(digits.cast(pa.float64()).cast(target, safe=False), valid(text) & ~good & ~_missing(text))


def to_bool(array: pa.Array) -> Cast:
    """Cast truth values: booleans, 0 and 1, and the words for them (`true`, `yes`, `in stock` and their opposites)."""
    if pa.types.is_boolean(array.type):
        return Cast(array, nowhere(array))
    text = to_string(array)
    word = pc.utf8_lower(blank_is_null(text.values))
    yes, no = (true(pc.is_in(word, value_set=words)) for words in (_YES, _NO))
    unread = valid(word) & ~yes & ~no & ~_missing(word)
    return Cast(where(pa.array(yes), yes | no), unread | text.bad, text.rule if text.bad.any() else "type")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds text or bytes."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def whole_numbers(text: pa.Array) -> Mask:
    """Return which texts are whole numbers that int64 holds `[N]`, `3.0` among them."""
    whole = true(pc.match_substring_regex(text, _INTEGER))
    if (pc.max(pc.binary_length(text)).as_py() or 0) < _DIGITS:
        return whole
    digits = pc.replace_substring_regex(text, r"^[+-]?0*|\.0*$", "")
    fits = pc.or_(pc.less(pc.binary_length(digits), _DIGITS), pc.less_equal(digits, _LARGEST))
    return whole & true(fits)


def numeric_text(array: pa.Array) -> pa.Array | None:
    """Return trimmed text, null where blank; None if a column is neither text nor decimal.

    Bytes that aren't text become a mark.
    """
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    if pa.types.is_decimal(array.type):
        return _decimal_text(array)
    if not is_text(array.type):
        return None
    text = _utf8(array.cast(pa.binary()))
    return blank_is_null(pc.if_else(pa.array(text.bad), "\ufffd", text.values))


def _decimal_text(array: pa.Array) -> pa.Array:
    """Return decimals as text; Arrow writes a zero of many places as `0E-10`."""
    return pc.replace_substring_regex(array.cast(pa.string()), "^-?0E[-+]?[0-9]+$", "0")


def blank_is_null(text: pa.Array) -> pa.Array:
    """Return text without blanks at its ends, null where nothing is left."""
    trimmed = pc.utf8_trim_whitespace(text)
    return where(trimmed, true(pc.not_equal(trimmed, "")))


def _missing(text: pa.Array) -> Mask:
    return true(pc.is_in(pc.utf8_lower(text), value_set=_MISSING))


def _utf8(array: pa.Array) -> Cast:
    try:
        return Cast(array.cast(pa.string()), nowhere(array))
    except pa.ArrowInvalid:
        text = pa.array([_decoded(value) for value in array.to_pylist()], pa.string())
        return Cast(text, valid(array) & ~valid(text), "encoding")


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None
