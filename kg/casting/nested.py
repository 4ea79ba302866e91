"""Category paths and attributes."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting.arrays import Cast, nowhere, plain, true, valid
from kg.casting.scalars import INT64_END, blank_is_null, is_text, to_string
from kg.tables import ATTRIBUTES

_SPLIT = r"\s*\|\s*| > "
"""Splits a category path that comes as one text."""
_LIST = re.compile(r"""\[\s*["'\[{]|\[[^\]]*,|\[\s*(?:None|nan)\s*\]\s*$""")
"""Begins a text that is meant as a list, as JSON or another language writes it: where it is no JSON, it is no name."""


def to_path(array: pa.Array) -> Cast:
    """Cast a category path: a list, or a text: `A|B|C`, `A > B > C`, or a JSON list.

    Of a list, null and NaN are left out, and whole numbers are names.
    """
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
        parts = to_string(plain(array.values))
        offsets = array.offsets.to_numpy()
        bad_before = np.concatenate([[0], np.cumsum(parts.bad)])
        bad = bad_before[offsets[1:]] > bad_before[offsets[:-1]]
        values, rule = parts.values, parts.rule
    else:
        text = to_string(array)
        trimmed = blank_is_null(text.values)
        if true(pc.starts_with(trimmed, "[")).any():
            return _listed_paths(trimmed, text)
        lists = pc.split_pattern_regex(trimmed, _SPLIT)
        offsets, values, bad, rule = lists.offsets.to_numpy(), lists.values, text.bad, text.rule
    names = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    keep = np.asarray(pc.not_equal(names, ""), dtype=bool)
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    first, last = (int(kept_before[offset]) for offset in (offsets[0], offsets[-1]))
    kept = names.filter(pa.array(keep)).slice(first, last - first)
    path = pa.ListArray.from_arrays(pa.array(kept_before[offsets] - first, pa.int32()), kept)
    return Cast(path.cast(pa.list_(pa.string())), bad, rule)


def _listed_paths(trimmed: pa.Array, text: Cast) -> Cast:
    """Cast texts of which some are JSON lists, as a name with the separator in it must be."""
    paths = [_parts(value or "") for value in trimmed.to_pylist()]
    unreadable = np.array([path is None for path in paths], bool)
    found = to_path(pa.array(paths, pa.list_(pa.string())))
    return Cast(found.values, found.bad | unreadable | text.bad, text.rule if text.bad.any() else found.rule)


def _parts(text: str) -> list[str] | None:
    """Return the parts of a category path, empty ones among them; None where it can't be read."""
    if text.startswith("["):
        try:
            names = [_name(each) for each in json.loads(text)]
        except RecursionError:
            return None
        except ValueError:
            if _LIST.match(text):
                return None
        else:
            found = [name for name in names if name is not None]
            return found if len(found) == len(names) else None
    return re.split(_SPLIT, text)


def _name(value: Any) -> str | None:
    """Return a parsed value as a list of its own type would spell it, empty where missing; None if it is no name."""
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < INT64_END else None
    if isinstance(value, int):
        return as_text(value)
    return value if is_encodable(value) else None


def to_attributes(array: pa.Array) -> Cast:
    """Cast key-value pairs: a map, a struct, or text with a JSON object; empty values and NaN are left out.

    A map may have several values of a key, and of a list each value is one.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return Cast(pa.array([[]] * len(array), ATTRIBUTES), nowhere(array))
    if pa.types.is_map(kind):
        return _pairs(array, list)
    if not is_text(kind):
        return _pairs(array, _pairs_of)
    text = to_string(array)
    parsed = _pairs(blank_is_null(text.values), lambda value: _pairs_of(json.loads(value)))
    return Cast(parsed.values, parsed.bad | text.bad, text.rule if text.bad.any() else parsed.rule)


def attribute_texts(column: pa.ChunkedArray | pa.Array) -> list[list[str]]:
    """Return each row's values of an attribute as texts `[N]`: of a list one for each value, else one or none.

    Text may be a JSON list. Floating numbers are written with their point, as a text file would have them; NaN and
    empty values are left out. Bytes that are not UTF-8 come as lone surrogates (`surrogateescape`).
    """
    array = plain(column)
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
        parts, offsets, there = attribute_texts(array.values), array.offsets.to_pylist(), valid(array)
        return [
            [text for part in parts[first:last] for text in part] if there[row] else []
            for row, (first, last) in enumerate(pairwise(offsets))
        ]
    if pa.types.is_floating(kind):
        # Of its own width, so that a float32 of .1 is not written as a float64.
        numbers = array.to_numpy(zero_copy_only=False)
        return [[] if np.isnan(number) else [str(number)] for number in numbers]
    if pa.types.is_map(kind):
        return [[as_text(dict(value))] if value else [] for value in array.to_pylist()]
    if pa.types.is_nested(kind):
        return [list(_spelled(value)) for value in array.to_pylist()]
    text = array.cast(pa.string()) if pa.types.is_decimal(kind) else to_string(array).values
    if is_text(kind) and text.null_count > array.null_count:
        return [listed(as_text(value)) if value else [] for value in array.cast(pa.binary()).to_pylist()]
    return [listed(value) if value else [] for value in text.to_pylist()]


def listed(text: str, most: int | None = None) -> list[str]:
    """Return the values of a text that is a JSON list, else the text; it is what `as_one_text` makes of several.

    Of more than `most` values, one more than that is returned.
    """
    if text.startswith("["):
        try:
            found = json.loads(text)
            some = None if most is None else most + 1
            values = list(islice(_spelled(found), some)) if isinstance(found, list) else [text]
        except (ValueError, RecursionError):
            return [text]
        return values if all(map(is_encodable, values)) else [text]
    return [text]


def as_one_text(values: Sequence[str]) -> str:
    """Return one value as it is, several as a JSON list."""
    return values[0] if len(values) == 1 else json.dumps(list(values), ensure_ascii=False)


def _spelled(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _spelled(each)
    elif not (is_missing(value) or value in ("", b"", {})):
        yield as_text(value)


def as_text(value: Any) -> str:
    """Return a value as the text of an attribute: strings and bytes as they are, anything else as JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_as_json)


def _as_json(value: Any) -> str:
    return as_text(value) if isinstance(value, bytes) else str(value)


def is_missing(value: Any) -> bool:
    """Return whether a parsed value is null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_encodable(value: Any) -> bool:
    """Return whether a parsed value is text; half a surrogate pair, which JSON can spell, is none."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _pairs(array: pa.Array, parse: Callable[[Any], Iterable[tuple[str, Any]]]) -> Cast:
    pairs: list[list[tuple[str, str]] | None] = []
    bad = nowhere(array)
    for row, value in enumerate(array.to_pylist()):
        try:
            found = () if value is None else parse(value)
            pairs.append(sorted({(as_text(key), text) for key, item in found for text in _spelled(item)}))
        except (ValueError, RecursionError):
            bad[row] = True
            pairs.append(None)
    return _as_map(pairs, bad)


def _as_map(pairs: list[list[tuple[str, str]] | None], bad: Any) -> Cast:
    try:
        return Cast(pa.array(pairs, ATTRIBUTES), bad)
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no text
        for row, value in enumerate(pairs):
            if value and not all(is_encodable(text) for pair in value for text in pair):
                pairs[row], bad[row] = None, True
        return Cast(pa.array(pairs, ATTRIBUTES), bad, "encoding")


def _pairs_of(value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} is not an object")
    return value.items()
