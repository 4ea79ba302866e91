"""Values that are corrected rather than refused: texts are for reading, so a stray character costs no row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.quality.rules import Broken
from kg.tables import CATEGORY_SEPARATOR, MAX_ID_BYTES

_CONTROL = r"[\x00-\x1f\x7f]+"
_TEXTS = ("title", "description", "brand")


def mend(name: str, columns: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], list[Broken]]:
    """Return the columns with their texts put right, and what was put right.

    Control characters in texts become a space, missing texts empty ones; a brand over 256 bytes (it would be a node's
    id) is blanked, and a separator inside a category's name is replaced.
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
        too_long = np.asarray(pc.greater(pc.binary_length(columns["brand"]), MAX_ID_BYTES), dtype=bool)
        mended.append(Broken("brand_too_long", "brand", too_long))
        columns["brand"] = pc.if_else(pa.array(too_long), "", columns["brand"])
        columns["category"], broken = _mend_paths(columns["category"])
        mended += broken
    if "attributes" in columns:
        empty = pa.scalar([], columns["attributes"].type)
        columns["attributes"] = (
            pc.fill_null(columns["attributes"], empty) if columns["attributes"].null_count else (columns["attributes"])
        )
    return columns, mended


def _mend_paths(paths: pa.Array) -> tuple[pa.Array, list[Broken]]:
    if paths.null_count:
        paths = pa.array([path or [] for path in paths.to_pylist()], paths.type)
    offsets = paths.offsets.to_numpy()
    names = paths.values
    wild = np.asarray(pc.match_substring_regex(names, CATEGORY_SEPARATOR + "|" + _CONTROL), dtype=bool)
    if not wild.any():
        return paths, []
    names = pc.replace_substring_regex(pc.replace_substring(names, CATEGORY_SEPARATOR, " / "), _CONTROL, " ")
    before = np.concatenate([[0], np.cumsum(wild)])
    rows = before[offsets[1:]] > before[offsets[:-1]]
    mended = pa.ListArray.from_arrays(paths.offsets, names)
    return mended.cast(paths.type), [Broken("category_separator", "category", rows)]
