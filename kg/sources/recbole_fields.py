"""Which column of an atomic file is which: RecBole leaves the names to a configuration, and data sets differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from kg.casting import TimeUnit, to_time_ms
from kg.errors import DataError

_RATINGS = ("rating", "ratings", "stars", "score", "overall", "rate")
_LABEL = "label"
_WEIGHTS = ("weight", "count", "play_count", "listen_count", _LABEL)
_TIMES = ("timestamp", "time", "date", "time_stamp", "datetime", "unix_time")
_DESCRIPTIONS = ("description", "summary", "abstract", "text")
_PLURAL = ("categories", "genres", "class", "tags")


@dataclass(frozen=True)
class Fields:
    """Names of an .inter file's columns, and the type its rows become; what is None is looked for.

    `label` says whether there was an interaction at all: a row with 0 tells of none.
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    type: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class ItemFields:
    """Names of an .item file's columns."""

    item: str
    title: str | None
    description: str | None
    brand: str | None
    price: str | None


def fields_of_interactions(path: Path, types: Mapping[str, str], given: Fields) -> Fields:
    """Return which column is what: the given ones, else by name, else users first and items second.

    Raises:
        DataError: a given column is not there, or there are no two columns of tokens.
    """
    for name in (given.user, given.item, given.rating, given.time, given.label):
        if name is not None and name not in types:
            raise DataError(f"{path} has no column {name!r}", f"Its columns are: {', '.join(types)}.")
    tokens = [name for name, kind in types.items() if kind == "token"]
    if len(tokens) < 2:
        raise DataError(f"{path} line 1 names no user and item column", "An .inter file has two columns of type token.")
    user = given.user or _one(["user_id", "session_id"], tokens) or tokens[0]
    others = [name for name in tokens if name != user]
    item = given.item or _one(["item_id"], others) or others[0]
    rating = given.rating or _one(_RATINGS, types)
    value = rating or _one(_WEIGHTS, types)
    time = given.time or _one(_TIMES, types)
    label = given.label or (None if rating else _one((_LABEL,), types))
    return Fields(user, item, value, time, given.type or ("rate" if rating else "click"), label)


def fields_of_items(types: Mapping[str, str]) -> ItemFields:
    """Return which column of an .item file is what."""
    tokens = [name for name, kind in types.items() if kind in ("token", "token_seq")]
    item = _one(["item_id"], types) or next(iter(types))
    named = [name for name in tokens if name != item and name not in _PLURAL]
    title = _one(["title"], named) or next((name for name in named if name.endswith(("title", "name"))), None)
    return ItemFields(
        item=item,
        title=title,
        description=_one(_DESCRIPTIONS, named),
        brand=_one(["brand"], named),
        price=_one(["price"], types),
    )


def guess_unit(column: pa.ChunkedArray) -> TimeUnit:
    """Return the unit that puts the median time between 1973 and 5138; the format does not say."""
    times = to_time_ms(column, TimeUnit.MILLISECONDS).values.drop_null().to_numpy()
    median = float(np.median(times)) if len(times) else 0.0
    if median < 1e11:
        return TimeUnit.SECONDS
    if median < 1e14:
        return TimeUnit.MILLISECONDS
    return TimeUnit.MICROSECONDS if median < 1e17 else TimeUnit.NANOSECONDS


def _one(wanted: tuple[str, ...] | list[str], names: Mapping[str, str] | list[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
