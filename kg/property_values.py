"""Values of the graph's properties as JSON, and back to the same type.

What JSON has stays as it is. Anything else becomes an object with one key, its type: `{"date": "2025-01-31"}`; no
property can be an object itself. Lists hold values of one type.
"""

import base64
from datetime import UTC
from typing import Any

import neo4j.spatial
import neo4j.time
import pytz  # type: ignore[import-untyped]  # the driver's own time zones; without stubs

_PLAIN = frozenset({type(None), bool, int, float, str})
_POINTS = {
    4326: neo4j.spatial.WGS84Point,
    4979: neo4j.spatial.WGS84Point,
    7203: neo4j.spatial.CartesianPoint,
    9157: neo4j.spatial.CartesianPoint,
}


def to_json(value: Any) -> Any:
    """Return a property's value, as the driver gave it, as JSON can have it.

    Raises:
        TypeError: a value of this type can't be written; names the type.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list):
        return value if not value or type(value[0]) in _PLAIN else [to_json(each) for each in value]
    match value:
        case neo4j.time.DateTime() if (zone := getattr(value.tzinfo, "zone", None)) and value.tzinfo is not pytz.UTC:
            return {"datetime": value.as_timezone(UTC).iso_format(), "zone": zone}
        case neo4j.time.DateTime():
            return {"datetime": value.iso_format()}
        case neo4j.time.Date():
            return {"date": value.iso_format()}
        case neo4j.time.Time():
            return {"time": value.iso_format()}
        case neo4j.time.Duration():
            return {"duration": [value.months, value.days, value.seconds, value.nanoseconds]}
        case neo4j.spatial.Point() if value.srid in _POINTS:
            return {"point": [value.srid, *value]}
        case bytes() | bytearray():
            return {"bytes": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def from_json(value: Any) -> Any:
    """Return what `to_json` was given.

    Raises:
        ValueError, KeyError, TypeError: `to_json` did not make it.
    """
    if isinstance(value, list):
        return [from_json(each) for each in value] if value and isinstance(value[0], dict) else value
    if not isinstance(value, dict):
        return value
    match value:
        case {"datetime": text, "zone": zone}:
            return neo4j.time.DateTime.from_iso_format(text).as_timezone(pytz.timezone(zone))
        case {"datetime": text}:
            moment = neo4j.time.DateTime.from_iso_format(text)
            # pytz has no offset of 0 beside the zone UTC; Python has.
            return moment.replace(tzinfo=UTC) if moment.tzinfo is pytz.UTC else moment
        case {"date": text}:
            return neo4j.time.Date.from_iso_format(text)
        case {"time": text}:
            return neo4j.time.Time.from_iso_format(text)
        case {"duration": [months, days, seconds, nanoseconds]}:
            return neo4j.time.Duration(months=months, days=days, seconds=seconds, nanoseconds=nanoseconds)
        case {"point": [srid, *coordinates]}:
            return _POINTS[srid](coordinates)
        case {"bytes": text}:
            return base64.b64decode(text, validate=True)
    raise ValueError(f"a value of no known type: {sorted(value)}")
