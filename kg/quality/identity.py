"""Which rows are the same thing: duplicates, occurrence numbers, and event ids made of content."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask
from kg.quality.findings import Findings
from kg.quality.report import Action
from kg.quality.rules import Broken
from kg.sources.raw import RawTable
from kg.tables import SCHEMAS
from kg.taking import in_slices

CONTENT = ("user_id", "product_id", "type", "at_ms", "value")
"""The columns that make an interaction what it is."""

_SEPARATOR = "\x1f"  # no id or type can hold it, so that joined columns are unambiguous


_KEYS = {"products": ["product_id"], "users": ["user_id"]}


def distinct(name: str, raw: RawTable, columns: dict[str, pa.Array], keep: Mask, findings: Findings) -> pa.Table:
    """Return the canonical table of the rows to keep, each thing once (its first row), every event with its id."""
    rows = np.flatnonzero(keep)
    kept = {field: array.take(pa.array(rows)) if len(rows) < len(keep) else array for field, array in columns.items()}
    if name == "interactions":
        repeats = np.zeros(len(rows), bool)
        if not raw.repeats_are_events:
            repeats = occurrences([kept[field] for field in CONTENT]) > 0
        if kept["event_id"].null_count:
            kept["event_id"] = pc.coalesce(kept["event_id"], event_ids(kept))
        repeats |= occurrences([kept["event_id"]]) > 0
        field = "event_id" if raw.repeats_are_events else ""
    else:
        key = _KEYS.get(name, SCHEMAS[name].names)
        repeats = occurrences([kept[field] for field in key]) > 0
        field = key[0] if len(key) == 1 else ""
    mask = np.zeros(len(keep), bool)
    mask[rows[repeats]] = True
    findings.drop(Broken("duplicate", field, mask), Action.DUPLICATE)
    table = pa.table([kept[field.name] for field in SCHEMAS[name]], schema=SCHEMAS[name])
    return table.filter(pa.array(~repeats)) if repeats.any() else table


def occurrences(columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Return for each row `[N]` how many earlier rows are equal in all columns: 0 for the first."""
    keys = _row_keys(columns)
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])) if len(keys) else keys
    lengths = np.diff(np.append(starts, len(keys)))
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return numbers


def _row_keys(columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Return one integer per row, equal exactly where all columns are equal."""
    keys = np.zeros(len(columns[0]), np.int64)
    size = 1
    for column in columns:
        encoded = column.dictionary_encode(null_encoding="encode")
        distinct = max(len(encoded.dictionary), 1)
        if size * distinct >= 2**63:
            _, keys = np.unique(keys, return_inverse=True)
            size = len(keys)
        keys = keys * distinct + np.asarray(encoded.indices, dtype=np.int64)
        size *= distinct
    return keys


def event_ids(columns: dict[str, pa.Array]) -> pa.Array:
    """Return an id for each interaction, made of its content and occurrence number.

    The same rows give the same ids in every load, so that loading a file twice adds nothing; two equal rows are two
    events.
    """
    content = [columns[name] for name in CONTENT]
    rows = pa.table([*content, pa.array(occurrences(content))], names=[*CONTENT, "number"])
    return pa.concat_arrays([_ids_of(each) for each in in_slices(rows)])


def _ids_of(rows: pa.Table) -> pa.Array:
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in rows.columns]
    joined = pc.binary_join_element_wise(*texts, _SEPARATOR)
    digest = hashlib.blake2b
    return pa.array([digest(text.encode(), digest_size=16).hexdigest() for text in joined.to_pylist()], pa.string())
