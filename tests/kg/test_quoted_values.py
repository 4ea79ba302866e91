"""Quotes in delimited text: values may span lines, and a quote that nobody closed is told before rows are lost."""

import gzip
from pathlib import Path

import pytest

from kg.errors import DataError
from kg.quality import Policy, check
from kg.sources.amazon import read_amazon
from kg.sources.delimited import read_delimited
from kg.sources.tables import TableFiles, read_tables

ROWS = [f"p{row},Title {row},b" for row in range(1000)]


def products(folder: Path, changes: dict[int, str], name: str = "p.csv") -> Path:
    rows = [changes.get(row, text) for row, text in enumerate(ROWS)]
    data = ("product_id,title,brand\n" + "\n".join(rows) + "\n").encode()
    (folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return folder / name


@pytest.mark.parametrize(
    "changes",
    [
        {10: 'p10,"Monitor,b'},
        {10: 'p10,"Monitor,b', 900: 'p900,"Zeros,b'},
        {10: 'p10,"Monitor,b', 900: 'p900,"Zeros",b'},
        {5: 'p5,"A legal\nvalue",b', 9: 'p9,"Odd" pot,b', 10: 'p10,"Monitor,b', 11: 'p11,Title "x,b'},
    ],
)
@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_a_quote_that_is_not_closed_is_told_with_its_line(changes: dict[int, str], name: str, tmp_path: Path) -> None:
    line = 13 if 5 in changes else 12
    with pytest.raises(DataError, match=rf"line {line}, column 'title': a quote that is not closed") as raised:
        read_tables(TableFiles(products=(products(tmp_path, changes, name),)))
    assert str(tmp_path / name) in raised.value.problem
    assert raised.value.remedy


def test_an_open_quote_before_more_than_a_block_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('product_id,title\np0,"Monitor\n' + f"p1,{'y' * 99}\n" * 100_000)
    with pytest.raises(DataError, match=r"p\.csv line 2, column 'title': a quote that is not closed"):
        read_delimited(path, "products", delimiter=",")
    path.write_text("product_id,title\np0," + "y" * (20 << 20) + "\n")
    with pytest.raises(DataError, match="a row of more than 8 MiB"):
        read_delimited(path, "products", delimiter=",")


def test_values_that_span_lines_are_kept_and_counted(tmp_path: Path) -> None:
    changes = {10: 'p10,"Two\nlines, ""quoted""",b', 11: 'p11,"Two\r\nmore","b\rc"', 12: 'p12,"Tea" pot,5" pan'}
    result = check(read_tables(TableFiles(products=(products(tmp_path, changes),))), Policy())
    assert len(result.tables.products) == len(ROWS)
    assert result.tables.products["title"].to_pylist()[12] == "Tea pot"
    assert result.report.notes == ("p.csv: values that span several lines: 3",)


def test_a_long_value_of_many_lines_is_no_open_quote(tmp_path: Path) -> None:
    changes = {10: 'p10,"' + "A line of text\n" * 20_000 + '",b'}
    assert len(read_tables(TableFiles(products=(products(tmp_path, changes),))).tables["products"].rows) == len(ROWS)


def test_quotes_within_a_line_need_no_closing(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('product_id,title\np1,5" pan\np2,"Tea" pot\np3,"Mug"\n')
    found = read_delimited(path, "products", delimiter=",")
    assert found.rows["title"].to_pylist() == [b'5" pan', b"Tea pot", b"Mug"]
    assert not found.notes


def test_ratings_tell_of_values_that_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text('user_id,parent_asin,rating,timestamp\n"u\n1",p1,5,1400000000000\n')
    assert read_amazon([path]).notes == ("ratings.csv: values that span several lines: 1",)
