"""What a request says of which products it wants, and of how they are mixed: checked, with every violated field."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kgrank.v1 import common_pb2
from server.question import NO_FILTER, NO_MIX, Filter, Mix, PriceRange

if TYPE_CHECKING:
    from server.contract import Checker

MAX_QUERY_BYTES = 1000
MAX_NAMES = 1000
MAX_NAME_BYTES = 2000
MAX_ATTRIBUTES = 50


def query_of(check: "Checker", field: str, text: str) -> str:
    """Check what is looked for."""
    if not text.strip():
        check.refuse(field, "is empty")
    return _text(check, field, text, MAX_QUERY_BYTES)


def names_of(check: "Checker", field: str, names: Sequence[str]) -> tuple[str, ...]:
    """Check a list of brands, category paths or values; the order and repeats make no difference."""
    if len(names) > MAX_NAMES:
        check.refuse(field, f"has {len(names)}; at most {MAX_NAMES} are allowed")
        return ()
    return tuple(sorted({name_of(check, f"{field}[{place}]", name) for place, name in enumerate(names)}))


def name_of(check: "Checker", field: str, name: str) -> str:
    """Check a brand, a category path, or a key or value of an attribute."""
    if not name:
        check.refuse(field, "is empty")
    return _text(check, field, name, MAX_NAME_BYTES)


def filter_of(check: "Checker", message: common_pb2.Filter) -> Filter:
    """Check a filter."""
    if not message.ByteSize():
        return NO_FILTER
    if len(message.attributes) > MAX_ATTRIBUTES:
        check.refuse("filter.attributes", f"has {len(message.attributes)}; at most {MAX_ATTRIBUTES} are allowed")
        return NO_FILTER
    attributes = []
    for place, each in enumerate(message.attributes):
        field = f"filter.attributes[{place}]"
        values = names_of(check, f"{field}.values", each.values)
        if not each.values:
            check.refuse(f"{field}.values", "is empty")
        attributes.append((name_of(check, f"{field}.key", each.key), values))
    return Filter(
        categories=names_of(check, "filter.categories", message.categories),
        brands=names_of(check, "filter.brands", message.brands),
        price=_price(check, message.price) if message.HasField("price") else None,
        attributes=tuple(attributes),
        only_available=message.only_available,
    )


def mix_of(check: "Checker", message: common_pb2.Mix) -> Mix:
    """Check a mix."""
    if not message.ByteSize():
        return NO_MIX
    most_of_brand = message.max_per_brand if message.HasField("max_per_brand") else None
    most_of_category = message.max_per_category if message.HasField("max_per_category") else None
    for field, share in (("diversity", message.diversity), ("exploration_share", message.exploration_share)):
        if not 0 <= share <= 1:  # NaN is not
            check.refuse(f"mix.{field}", f"is {share}; it must be from 0 to 1")
    for field, most in (("max_per_brand", most_of_brand), ("max_per_category", most_of_category)):
        if most is not None and most < 1:
            check.refuse(f"mix.{field}", f"is {most}; it must be at least 1")
    return Mix(message.diversity, most_of_brand, most_of_category, message.exploration_share)


def _price(check: "Checker", message: common_pb2.PriceRange) -> PriceRange:
    low, high = (getattr(message, end) if message.HasField(end) else None for end in ("min", "max"))
    for end, value in (("min", low), ("max", high)):
        if value is not None and not math.isfinite(value):
            check.refuse(f"filter.price.{end}", f"is {value}; it must be finite")
    if low is not None and high is not None and low > high:
        check.refuse("filter.price", f"has a min of {low} above its max of {high}")
    return PriceRange(low, high, message.allow_unpriced)


def _text(check: "Checker", field: str, text: str, most_bytes: int) -> str:
    size = len(text.encode())
    if size > most_bytes:
        check.refuse(field, f"has {size} bytes; at most {most_bytes} are allowed")
    elif has_control(text):
        check.refuse(field, "has control characters")
    return text


def has_control(text: str) -> bool:
    """Return whether a text has control characters: what breaks lines and terminals."""
    return not text.isprintable() and any(map(_is_control, text))


def _is_control(character: str) -> bool:
    # C0, DEL and C1. Other unprintables (spaces, joiners) are text.
    return character < " " or "\x7f" <= character < "\xa0"
