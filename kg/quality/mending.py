"""Values that are corrected rather than refused: texts are for reading, so a stray character costs no row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask
from kg.quality.rules import Broken
from kg.tables import CATEGORY_SEPARATOR, MAX_ID_BYTES, MAX_LEVELS, MAX_PATH_BYTES, MAX_VALUE_BYTES

_CONTROL = r"[\x00-\x1f\x7f]+"
_SEPARATOR = r"( >)+( |$)"
"""`CATEGORY_SEPARATOR` in a name, also where the next level's would end what the name ends in."""
_TEXTS = ("title", "description", "brand")


def mend(name: str, columns: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], list[Broken]]:
    """Return the columns with their texts put right, and what was put right.

    Control characters in texts become a space, missing texts empty ones, and a separator inside a category's name is
    replaced. What would be too long for a node's id is left out: a brand over 256 bytes, an attribute whose key is over
    256 or its value over 1,024, and of a category path what is below 16 levels, 2,048 bytes or a name over 256.
    """
    columns = dict(columns)
    mended: list[Broken] = []
    for field in [field for field in _TEXTS if field in columns]:
        text = pc.fill_null(columns[field], "")
        wild = np.asarray(pc.match_substring_regex(text, _CONTROL), dtype=bool)
        if wild.any():
            text = pc.replace_substring_regex(text, _CONTROL, " ")
            mended.append(Broken("text_control_character", field, wild))
        columns[field] = pc.utf8_trim_whitespace(text)
    if name == "products":
        too_long = _longer(columns["brand"], MAX_ID_BYTES)
        mended.append(Broken("brand_too_long", "brand", too_long))
        columns["brand"] = pc.if_else(pa.array(too_long), "", columns["brand"])
        columns["category"], broken = _mend_paths(columns["category"])
        mended += broken
    if "attributes" in columns:
        empty = pa.scalar([], columns["attributes"].type)
        columns["attributes"] = (
            pc.fill_null(columns["attributes"], empty) if columns["attributes"].null_count else (columns["attributes"])
        )
        columns["attributes"], rows = _without_long(columns["attributes"])
        mended.append(Broken("attribute_too_long", "attributes", rows))
    return columns, mended


def _without_long(attributes: pa.MapArray) -> tuple[pa.MapArray, Mask]:
    """Return the attributes that can be nodes, and the rows `[N]` that had others."""
    long = _longer(attributes.keys, MAX_ID_BYTES) | _longer(attributes.items, MAX_VALUE_BYTES)
    if not long.any():
        return attributes, np.zeros(len(attributes), bool)
    keep = pa.array(~long)
    kept_before = np.concatenate([[0], np.cumsum(~long)])
    offsets = pa.array(kept_before[attributes.offsets.to_numpy()], pa.int32())
    kept = pa.MapArray.from_arrays(offsets, attributes.keys.filter(keep), attributes.items.filter(keep))
    return kept.cast(attributes.type), _any_of(attributes.offsets, long)


def _mend_paths(paths: pa.Array) -> tuple[pa.Array, list[Broken]]:
    if paths.null_count:
        paths = pa.array([path or [] for path in paths.to_pylist()], paths.type)
    names = paths.values
    wild = np.asarray(pc.match_substring_regex(names, f"{_SEPARATOR}|{_CONTROL}"), dtype=bool)
    if wild.any():
        names = pc.replace_substring_regex(pc.replace_substring_regex(names, _CONTROL, " "), _SEPARATOR, r" /\2")
        paths = pa.ListArray.from_arrays(paths.offsets, names).cast(paths.type)
    separated = _any_of(paths.offsets, wild)
    levels = pc.list_value_length(paths).to_numpy(zero_copy_only=False)
    joined = pc.binary_join(paths, CATEGORY_SEPARATOR)
    long = (
        _any_of(paths.offsets, _longer(names, MAX_ID_BYTES)) | _longer(joined, MAX_PATH_BYTES) | (levels > MAX_LEVELS)
    )
    if long.any():
        fitting = [_cut(path) if cut else path for path, cut in zip(paths.to_pylist(), long, strict=True)]
        paths = pa.array(fitting, paths.type)
    return paths, [Broken("category_separator", "category", separated), Broken("category_too_long", "category", long)]


def _cut(path: list[str]) -> list[str]:
    """Return the first levels of a path that fit: the product lies in these, too."""
    kept: list[str] = []
    for name in path[:MAX_LEVELS]:
        longer = CATEGORY_SEPARATOR.join([*kept, name])
        if len(name.encode()) > MAX_ID_BYTES or len(longer.encode()) > MAX_PATH_BYTES:
            break
        kept.append(name)
    return kept


def _longer(texts: pa.Array, most_bytes: int) -> Mask:
    return np.asarray(pc.fill_null(pc.greater(pc.binary_length(texts), most_bytes), False), dtype=bool)


def _any_of(offsets: pa.Array, marks: Mask) -> Mask:
    """Return the rows `[N]` that have a marked value among theirs."""
    before = np.concatenate([[0], np.cumsum(marks)])
    places = offsets.to_numpy()
    rows: Mask = before[places[1:]] > before[places[:-1]]
    return rows
