"""The rules that a single row of a canonical table must meet, each a mask over the cast columns."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask
from kg.schema import RESERVED_RELATIONS
from kg.tables import MAX_ID_BYTES, InteractionType

EARLIEST_MS = 100_000_000_000
"""3 March 1973. An undeclared time before it is taken for seconds: in seconds it is the year 5138."""
LATEST_MS = 100_000_000_000_000
"""The year 5138. An undeclared time after it is taken for micro- or nanoseconds."""
CLOCK_SKEW_MS = 86_400_000
"""A day: clocks and time zones differ, so a time is in the future only beyond it."""

WRONG_UNIT = "time_unit"

_CONTROL = r"[\x00-\x1f\x7f\x{80}-\x{9f}]"
_RELATION = r"^[A-Z][A-Z0-9_]{0,127}$"
_KIND = r"^[a-z][a-z0-9_]{0,127}$"
_MAX_PRICE = 1e9
_QUANTITIES = [InteractionType.PURCHASE.value, InteractionType.ADD_TO_CART.value]


class Broken(NamedTuple):
    """A rule, the field it is about, and the rows `[N]` that break it."""

    rule: str
    field: str
    rows: Mask


def id_rules(field: str, ids: pa.Array) -> Iterator[Broken]:
    """An id is 1 to 256 bytes without control characters. Judged once per distinct id."""
    encoded = ids.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, 0))
    missing = ~np.asarray(ids.is_valid())
    distinct = encoded.dictionary

    def rows(per_id: pa.Array) -> Mask:
        marks = np.asarray(per_id, dtype=bool)
        return marks[codes] & ~missing if len(marks) else np.zeros(len(ids), bool)

    yield Broken("id_empty", field, missing | rows(pc.equal(pc.utf8_trim_whitespace(distinct), "")))
    yield Broken("id_too_long", field, rows(pc.greater(pc.binary_length(distinct), MAX_ID_BYTES)))
    yield Broken("id_control_character", field, rows(pc.match_substring_regex(distinct, _CONTROL)))


def time_rules(at_ms: pa.Array, now_ms: int, with_unit: Mask) -> Iterator[Broken]:
    """A time is there, plausible in milliseconds unless its unit is known, and not in the future."""
    valid = np.asarray(at_ms.is_valid())
    times = np.asarray(pc.fill_null(at_ms, 0))
    yield Broken("time_missing", "at_ms", ~valid)
    yield Broken("time_negative", "at_ms", times < 0)
    wrong_unit = valid & ~with_unit & (times >= 0) & ((times < EARLIEST_MS) | (times > LATEST_MS))
    yield Broken(WRONG_UNIT, "at_ms", wrong_unit)
    yield Broken("time_future", "at_ms", (times > now_ms + CLOCK_SKEW_MS) & ~wrong_unit)


def interaction_rules(columns: dict[str, pa.Array]) -> Iterator[Broken]:
    """A known type; a finite value, above zero where it counts pieces; a position that is not negative."""
    known = pc.is_in(columns["type"], value_set=pa.array([kind.value for kind in InteractionType]))
    yield Broken("type_unknown", "type", ~_true(known))
    value = columns["value"]
    yield Broken("value_not_finite", "value", _true(pc.is_inf(value)))
    pieces = _true(pc.is_in(columns["type"], value_set=pa.array(_QUANTITIES)))
    yield Broken("quantity_not_positive", "value", pieces & _true(pc.less_equal(value, 0)))
    event_id = columns["event_id"]
    if event_id.null_count < len(event_id):
        yield from id_rules("event_id", pc.fill_null(event_id, "-"))  # a missing one will be derived
    yield Broken("position_negative", "position", _true(pc.less(columns["position"], 0)))


def product_rules(columns: dict[str, pa.Array]) -> Iterator[Broken]:
    """A price is finite, not negative and below a thousand million."""
    price = columns["price"]
    wild = pc.or_(pc.less(price, 0), pc.greater(price, _MAX_PRICE))
    yield Broken("price_out_of_range", "price", _true(wild))


def fact_rules(columns: dict[str, pa.Array]) -> Iterator[Broken]:
    """Relation names are `[A-Z][A-Z0-9_]*`, kinds `[a-z][a-z0-9_]*`: they become names in the graph.

    The names of interactions are reserved: such rows belong into that table.
    """
    for field, pattern in (("relation", _RELATION), ("head_kind", _KIND), ("tail_kind", _KIND)):
        encoded = columns[field].dictionary_encode()
        fits = pc.match_substring_regex(encoded.dictionary, pattern).take(encoded.indices)
        yield Broken("name_malformed", field, ~_true(fits))
    reserved = pc.is_in(columns["relation"], value_set=pa.array(sorted(RESERVED_RELATIONS)))
    yield Broken("relation_reserved", "relation", _true(reserved))


def _true(mask: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(mask, False), dtype=bool)
