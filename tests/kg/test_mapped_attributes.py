"""A file's columns as attributes: the same from every format, nothing lost in silence."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kg.errors import DataError
from kg.quality import Policy, check, clean
from kg.sources.mapping import ColumnMapping, read_mapping
from kg.sources.tables import TableFiles, read_tables

ROWS: list[dict[str, Any]] = [
    {"product_id": "p1", "weight": 2.5, "packs": 1, "colour": ["red", "blue"], "size": [1.5, 2.0], "new": "true"},
    {"product_id": "p2", "weight": 2.0, "packs": 3, "colour": [], "size": None, "new": None},
    {"product_id": "p3", "weight": None, "packs": None, "colour": ["red", "red", ""], "size": [0.1], "new": "false"},
]
FOUND = [
    [
        ("colour", "blue"),
        ("colour", "red"),
        ("new", "true"),
        ("packs", "1"),
        ("size", "1.5"),
        ("size", "2.0"),
        ("weight", "2.5"),
    ],
    [("packs", "3"), ("weight", "2.0")],
    [("colour", "red"), ("new", "false"), ("size", "0.1")],
]


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        for row in ROWS:
            writer.writerow({name: json.dumps(each) if isinstance(each, list) else each for name, each in row.items()})


def write_json(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_parquet_of_other_types(path: Path) -> None:
    types = {"weight": pa.float32(), "packs": pa.int8(), "size": pa.list_(pa.float32()), "new": pa.large_string()}
    rows = pa.Table.from_pylist(ROWS)
    pq.write_table(rows.cast(pa.schema([(each.name, types.get(each.name, each.type)) for each in rows.schema])), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("items.csv", write_csv),
        ("items.jsonl", write_json),
        ("items.parquet", write_parquet),
        ("items.parquet", write_parquet_of_other_types),
    ],
)
def test_columns_become_the_same_attributes_from_every_format(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    mapping = ColumnMapping()
    for column in ("weight", "packs", "colour", "size", "new"):
        mapping = mapping.with_assignment("column", f"products.attributes.{column}={column}")
    result = clean(read_tables(TableFiles(products=(tmp_path / name,)), mapping), Policy(strict=True))
    assert result.tables.products["attributes"].to_pylist() == FOUND


def test_an_attribute_of_mixed_types_is_taken_value_by_value(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    values = ["red", ["red", "blue"], 1, 2.5, True, {"a": 1.5}, None, float("nan"), "[red]", '["\\ud800"]', [[1], None]]
    path.write_text("\n".join(json.dumps({"product_id": f"p{n}", "x": each}) for n, each in enumerate(values)))
    mapping = ColumnMapping().with_assignment("column", "products.attributes.x=x")
    found = clean(read_tables(TableFiles(products=(path,)), mapping)).tables.products["attributes"].to_pylist()
    assert [[value for _, value in pairs] for pairs in found] == [
        ["red"],
        ["blue", "red"],
        ["1"],
        ["2.5"],
        ["true"],
        ['{"a": 1.5}'],
        [],
        [],
        ["[red]"],
        ['["\\ud800"]'],
        ["1"],
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("items.csv", b"product_id,x\np1,ros\xe9\np2,red\n"),
        ("items.jsonl", b'{"product_id": "p1", "x": "\\ud800"}\n{"product_id": "p2", "x": "red"}\n'),
        ("items.jsonl", b'{"product_id": "p1", "x": ["a", "ros\xe9"]}\n{"product_id": "p2", "x": "red"}\n'),
    ],
)
def test_an_attribute_that_is_not_utf8_is_refused_and_not_lost(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    mapping = ColumnMapping().with_assignment("column", "products.attributes.x=x")
    result = check(read_tables(TableFiles(products=(tmp_path / name,)), mapping), Policy())
    assert result.tables.products["attributes"].to_pylist() == [[("x", "red")]]
    assert [(row["line"], row["field"], row["rule"]) for row in result.refused.to_pylist()] == [
        (1 if name.endswith("jsonl") else 2, "attributes", "encoding")
    ]


@pytest.mark.parametrize(("key", "value"), [("split", "|"), ("unit", "s")])
def test_an_attribute_takes_no_split_and_no_unit(key: str, value: str, tmp_path: Path) -> None:
    said = rf"products\.attributes\.colour has {key} '{re.escape(value)}'"
    with pytest.raises(DataError, match=said):
        ColumnMapping().with_assignment(key, f"products.attributes.colour={value}")
    path = tmp_path / "map.toml"
    path.write_text(f'[products.attributes]\ncolour = {{ column = "col", {key} = "{value}" }}\n')
    with pytest.raises(DataError, match=said):
        read_mapping(path)
