"""Tokens of pages: who damages one, or takes that of another list, is told so, and never gets the first page again."""

import base64

import pytest

from server.contract import Checker
from server.page_tokens import entry_of, page_token


def refused(token: str, listing: str = "rules", parts: int = 1) -> bool:
    check = Checker()
    entry = entry_of(check, listing, token, parts)
    assert not (entry and check.violations)
    return [each.field for each in check.violations] == ["page_token"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_token_names_the_entry_that_it_was_made_of() -> None:
    check = Checker()
    assert entry_of(check, "facts", page_token("facts", ["Łódź", "[]"]), 2) == ["Łódź", "[]"]
    assert entry_of(check, "facts", "", 2) == []
    assert not check.violations


@pytest.mark.parametrize(
    "token",
    [
        "%%%%",
        "W10=",
        "=",
        "Ł",
        page_token("rules", ["a"]) + "%",
        page_token("rules", ["a"])[:-1],
        page_token("rules", ["abc"]).rstrip("="),
        page_token("rules", [""]),
        page_token("rules", ["a", "b"]),
        page_token("rules", ["\ud800"]),
        page_token("products", ["a"]),
        encoded("a"),
        encoded('{"rules": "a"}'),
        encoded('["rules","a"]'),
        encoded("[" * 100_000),
        encoded('["rules", 1]'),
    ],
)
def test_what_is_no_token_of_the_list_is_refused(token: str) -> None:
    assert refused(token)
