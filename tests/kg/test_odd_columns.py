"""Columns that databases and other tools write: legal ones are read, whatever their names, types and digits."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kg.casting.scalars import to_int, to_string
from kg.errors import DataError
from kg.quality import Policy, check, clean
from kg.sources.mapping import ColumnMapping
from kg.sources.tables import TableFiles, read_tables

EVENT = "user_id,product_id,type,at_ms{0}\nann,b1,view,1736473513905{1}\n"


@pytest.mark.parametrize("name", ["_file", "_line"])
def test_a_column_named_as_ours_is_passed_over(name: str, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(EVENT.format(f",{name}", ",7") + ",,,,\n")
    rows = read_tables(TableFiles(interactions=(path,))).tables["interactions"].rows.to_pylist()
    assert [(row["_file"], row["_line"], row["user_id"]) for row in rows] == [("events.csv", 2, b"ann")]


def test_a_parquet_file_with_a_column_twice_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table([["ann"], ["x"], ["b1"]], names=["user_id", "user_id", "product_id"]), path)
    with pytest.raises(DataError, match=r"events\.parquet has column 'user_id' twice"):
        read_tables(TableFiles(interactions=(path,)))


def test_an_event_of_nanoseconds_is_the_same_one_in_every_format(tmp_path: Path) -> None:
    columns = {"user_id": ["ann"], "product_id": ["b1"], "type": ["view"], "at_ms": [1_736_473_513_905_999_999]}
    text, parquet = tmp_path / "events.csv", tmp_path / "events.parquet"
    text.write_text(EVENT.format(",position", f"999999,{2**63 - 1}"))
    pq.write_table(pa.table(columns | {"position": [2**63 - 1]}), parquet)
    mapping = ColumnMapping().with_assignment("unit", "interactions.at_ms=ns")
    both = check(read_tables(TableFiles(interactions=(text, parquet)), mapping), Policy())
    assert not len(both.refused)
    (one, other) = [
        clean(read_tables(TableFiles(interactions=(path,)), mapping), Policy(strict=True)).tables.interactions
        for path in (text, parquet)
    ]
    assert one.equals(other)
    assert one["position"].to_pylist() == [2**63 - 1]


def test_a_decimal_zero_of_many_places_is_zero() -> None:
    numbers = pa.array([Decimal(0), Decimal(5), None], pa.decimal128(20, 10))
    for cast in (to_int(numbers), to_string(numbers)):
        assert [str(value) for value in cast.values.to_pylist()] == ["0", "5", "None"]
        assert not cast.bad.any()


def test_decimal_ids_of_a_database_are_read(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    ids = [Decimal(5), Decimal(10**24)]
    pq.write_table(pa.table({"product_id": pa.array(ids, pa.decimal128(38, 0))}), path)
    found = clean(read_tables(TableFiles(products=(path,))), Policy(strict=True)).tables.products
    assert found["product_id"].to_pylist() == ["5", str(10**24)]
