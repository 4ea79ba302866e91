"""What Amazon's metadata has in place of clean values: markup, lists for texts, paths in lists, prices with signs."""

import html
import math
import re
from typing import Any

_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_INLINE_TAG = re.compile(r"</?(?:a|b|em|font|i|small|span|strong|sub|sup|u)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[/!]?[a-zA-Z][^<>]*>")
_UNFINISHED_TAG = re.compile(r"<[/!]?[a-zA-Z][^<>]*$")
_SPACE = re.compile(r"\s+")
_PRICE = re.compile(r"^(?:from\s*)?(?:US)?\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)\b", re.IGNORECASE)
_STORE_PAGE = re.compile(r"^(?:visit (?:amazon's )?(?:the )?(.+?) (?:page|store)|by\s+(.+))$", re.IGNORECASE)
_MAX_CATEGORY_CHARS = 60
_SCRIPT_MARKS = ("getTime", "function(", ".a-box", "P.when(")


def plain_text(value: Any) -> str:
    """Return text without markup: a list's parts joined, tags and entities replaced, white space collapsed."""
    if isinstance(value, list):
        return " ".join(filter(None, (plain_text(part) for part in value)))
    if not isinstance(value, str) or not value:
        return ""
    text = value
    if "<" in text:
        text = _UNFINISHED_TAG.sub(" ", _TAG.sub(" ", _INLINE_TAG.sub("", _SCRIPT.sub(" ", text))))
    if "&" in text:
        text = html.unescape(text)
    return _SPACE.sub(" ", text).strip()


def title_text(value: Any) -> str:
    """Return a title; a page's script in place of one (known of the 2018 files) is no title."""
    return "" if isinstance(value, str) and any(mark in value for mark in _SCRIPT_MARKS) else plain_text(value)


def brand_name(value: Any) -> str:
    """Return a brand: `Visit Amazon's Stephen King Page` is Stephen King."""
    name = plain_text(value)
    page = _STORE_PAGE.match(name)
    return next((found for found in page.groups() if found), name) if page else name


def category_path(value: Any) -> list[str]:
    """Return one category path: the deepest, the first of equals, where there are several (2014).

    In the 2018 files the path goes on into the product's bullet points: it ends where a sentence or markup begins.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return []
    if any(isinstance(path, list) for path in value):
        value = max((path for path in value if isinstance(path, list)), key=len)
    path: list[str] = []
    for part in value:
        name = title_text(part)
        if not name or len(name) > _MAX_CATEGORY_CHARS or name.endswith((".", "!", "?", ":", ",")):
            break
        if name not in path[-1:]:
            path.append(name)
    return path


def price_of(value: Any) -> float | None:
    """Return a price: of a range its lower end, of too large a number infinity, of what is not a price None."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    found = _PRICE.match(value.strip()) if isinstance(value, str) else None
    return float(found[1].replace(",", "")) if found else None
