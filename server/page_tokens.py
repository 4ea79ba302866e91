"""Page tokens: the last entry of a page, by which the next one is found, as text that its caller only passes on."""

import base64
import binascii
import json
from collections.abc import Sequence

from server.contract import Checker


def page_token(listing: str, last: Sequence[str]) -> str:
    """Return the token of the page after one.

    Args:
        listing: what is listed; a token of another listing is none of this one.
        last: the page's last entry, of texts none of which is empty.
    """
    return base64.urlsafe_b64encode(json.dumps([listing, *last]).encode()).decode()


def entry_of(check: Checker, listing: str, token: str, parts: int) -> list[str]:
    """Return the entry that a token names, of so many parts; nothing for the first page."""
    if not token:
        return []
    try:
        found = json.loads(base64.urlsafe_b64decode(token.encode()))
        if (
            isinstance(found, list)
            and len(found) == 1 + parts
            and all(each and isinstance(each, str) for each in found)
        ):
            "".join(found).encode()  # fails where an escape was half a character
            if page_token(listing, found[1:]) == token:  # decoding passes over what is no base64
                return found[1:]
    except (ValueError, binascii.Error, RecursionError):
        pass
    check.refuse("page_token", "is not a token of this list; take next_page_token of the page before, unchanged")
    return []
