"""A refusal says what to do: one remedy for each rule, and the file's own columns where one is missing."""

import re
from pathlib import Path
from typing import Any

import pytest

from kg.errors import DataError
from kg.quality import Policy, check, clean
from kg.quality.remedies import remedy_of
from kg.sources.mapping import ColumnMapping
from kg.sources.tables import TableFiles, read_tables
from tests.kg.test_quality import EVENT, FACT, NOW_MS, PRODUCT, raw

PAGE = Path(__file__).parents[2] / "docs" / "data-formats.md"
MENDED = {
    "text_control_character",
    "category_separator",
    "brand_too_long",
    "attribute_too_long",
    "category_too_long",
}


@pytest.mark.parametrize(
    ("table", "rows", "said"),
    [
        ("interactions", [EVENT | {"product_id": "gone"}], "--outside interactions=bare"),
        ("interactions", [EVENT | {"type": "bought"}], "view, click, add_to_cart, wishlist, purchase, rate, review"),
        ("interactions", [EVENT | {"at_ms": "31/12/2024"}], "ISO 8601, such as 2025-01-31"),
        ("interactions", [EVENT | {"value": "5 stars"}], "plain number"),
        ("products", [PRODUCT | {"product_id": "p2", "price": "EUR 5"}], "plain number"),
        ("products", [PRODUCT | {"product_id": "p2", "attributes": "red"}], "JSON object"),
        ("facts", [FACT | {"relation": "PURCHASED"}], "as interactions"),
    ],
)
def test_a_refusal_leads_to_the_remedy(table: str, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match="are bad") as raised:
        clean(raw(**({"products": [PRODUCT]} | {table: rows})), now_ms=NOW_MS)
    assert said in raised.value.remedy
    assert raised.value.remedy.endswith("nothing was loaded.")


def test_what_strict_refuses_has_a_remedy_too() -> None:
    with pytest.raises(DataError, match="mostly duplicate") as raised:
        clean(raw(products=[PRODUCT, PRODUCT]), Policy(strict=True))
    assert raised.value.remedy.startswith("Give each thing once.")


def test_every_rule_of_the_page_that_refuses_rows_has_a_remedy() -> None:
    rows = re.findall(
        r"^\| (`[a-z_`, ]+`) \| [^|]*\|$", PAGE.read_text(encoding="utf-8").partition("| rule | about |")[2], re.M
    )
    rules = {rule for row in rows for rule in re.findall(r"`(\w+)`", row)}
    assert rules > MENDED
    for rule in rules - MENDED:
        assert remedy_of("interactions", rule, "").endswith(".")


def test_a_missing_column_names_those_that_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("who,what,type,when\nann,p1,click,1700000000000\n")
    mapping = ColumnMapping().with_assignment("column", "interactions.user_id=who")
    with pytest.raises(DataError, match="column product_id is missing") as raised:
        check(read_tables(TableFiles(interactions=(path,)), mapping), Policy())
    assert raised.value.remedy.startswith("The columns are: who, what, type, when. Give it with --map interactions.")
