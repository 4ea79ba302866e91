"""Category paths and attributes."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting.arrays import Cast, nowhere, plain, true
from kg.casting.scalars import blank_is_null, is_text, to_string
from kg.tables import ATTRIBUTES

_SPLIT = r"\s*\|\s*| > "
"""Splits a category path that comes as one text."""


def to_path(array: pa.Array) -> Cast:
    """Cast a category path: a list of strings, or a text: `A|B|C`, `A > B > C`, or a JSON list."""
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
        if true(pc.starts_with(text.values, "[")).any():
            return _spelled_paths(text)
        lists = pc.split_pattern_regex(blank_is_null(text.values), _SPLIT)
        offsets, values, bad, rule = lists.offsets.to_numpy(), lists.values, text.bad, text.rule
    trimmed = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    keep = np.asarray(pc.not_equal(trimmed, ""), dtype=bool)
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    first, last = (int(kept_before[offset]) for offset in (offsets[0], offsets[-1]))
    names = trimmed.filter(pa.array(keep)).slice(first, last - first)
    path = pa.ListArray.from_arrays(pa.array(kept_before[offsets] - first, pa.int32()), names)
    return Cast(path.cast(pa.list_(pa.string())), bad, rule)


def _spelled_paths(text: Cast) -> Cast:
    """Cast texts of which some are JSON lists, as a name with the separator in it must be."""
    paths: list[list[Any] | None] = []
    for value in text.values.to_pylist():
        try:
            found = json.loads(value) if value and value.startswith("[") else re.split(_SPLIT, value or "")
        except (ValueError, RecursionError):
            found = None
        paths.append(found if isinstance(found, list) and all(map(_is_text, found)) else None)
    unreadable = np.array([path is None for path in paths], bool)
    spelled = to_path(pa.array(paths, pa.list_(pa.string())))
    return Cast(spelled.values, spelled.bad | unreadable | text.bad, text.rule if text.bad.any() else spelled.rule)


def to_attributes(array: pa.Array) -> Cast:
    """Cast key-value pairs: a map, a struct, or text with a JSON object; empty values are left out."""
    kind = array.type
    if pa.types.is_null(kind):
        return Cast(pa.array([[]] * len(array), ATTRIBUTES), nowhere(array))
    if pa.types.is_map(kind) or pa.types.is_struct(kind):
        return _pairs(array, dict)
    if not is_text(kind):
        return _pairs(array, _not_an_object)
    text = to_string(array)
    parsed = _pairs(blank_is_null(text.values), json.loads)
    return Cast(parsed.values, parsed.bad | text.bad, text.rule if text.bad.any() else parsed.rule)


def as_text(value: Any) -> str:
    """Return a value as the text of an attribute: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _is_text(value: Any) -> bool:
    """Return whether a parsed value is text; half a surrogate pair, which JSON can spell, is none."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _pairs(array: pa.Array, parse: Callable[[Any], Any]) -> Cast:
    pairs: list[list[tuple[str, str]] | None] = []
    bad = nowhere(array)
    for row, value in enumerate(array.to_pylist()):
        try:
            found = {} if value is None else parse(value)
            if not isinstance(found, dict):
                raise ValueError("not an object")
            pairs.append(sorted((key, as_text(item)) for key, item in found.items() if item not in (None, "", [])))
        except (ValueError, RecursionError):
            bad[row] = True
            pairs.append(None)
    return _as_map(pairs, bad)


def _as_map(pairs: list[list[tuple[str, str]] | None], bad: Any) -> Cast:
    try:
        return Cast(pa.array(pairs, ATTRIBUTES), bad)
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no text
        for row, value in enumerate(pairs):
            if value and not all(_is_text(text) for pair in value for text in pair):
                pairs[row], bad[row] = None, True
        return Cast(pa.array(pairs, ATTRIBUTES), bad, "encoding")


def _not_an_object(value: Any) -> Any:
    raise ValueError(f"{type(value).__name__} is not an object")
