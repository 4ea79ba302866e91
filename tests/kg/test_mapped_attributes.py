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


def write_extras_as_parquet(path: Path) -> None:
    extras = pa.array(
        [[("colour", "grey"), ("roast", "dark")], None, [("origin", "Peru")]], pa.map_(pa.string(), pa.string())
    )
    ids = pa.array(["p1", "p2", "p3"])
    pq.write_table(pa.table({"product_id": ids, "attributes": extras, "colour": [["red", "blue"], ["red"], []]}), path)


def write_extras_as_csv(path: Path) -> None:
    path.write_text(
        "product_id,attributes,colour\n"
        'p1,"{""colour"": ""grey"", ""roast"": ""dark""}","[""red"", ""blue""]"\n'
        "p2,,red\n"
        'p3,"{""colour"": ""grey"", ""origin"": ""Peru""}",\n'
    )


@pytest.mark.parametrize(
    ("name", "write"), [("items.parquet", write_extras_as_parquet), ("items.csv", write_extras_as_csv)]
)
def test_mapped_attributes_stand_beside_those_of_the_column_attributes(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    mapping = ColumnMapping().with_assignment("column", "products.attributes.colour=colour")
    result = clean(read_tables(TableFiles(products=(tmp_path / name,)), mapping), Policy(strict=True))
    assert result.tables.products["attributes"].to_pylist() == [
        [("colour", "blue"), ("colour", "red"), ("roast", "dark")],
        [("colour", "red")],
        [("origin", "Peru")],
    ]


def test_attributes_that_can_not_be_read_are_refused_beside_mapped_ones(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"product_id,attributes,colour\np1,dark,red\np2,{},ros\xe9\np3,{},red\n")
    mapping = ColumnMapping().with_assignment("column", "products.attributes.colour=colour")
    result = check(read_tables(TableFiles(products=(path,)), mapping), Policy())
    assert result.tables.products["product_id"].to_pylist() == ["p3"]
    assert [(row["line"], row["field"]) for row in result.refused.to_pylist()] == [
        (2, "attributes"),
        (3, "attributes"),
    ]
    assert result.refused["value"][0].as_py() == "dark"


@pytest.mark.parametrize("name", ["unit", "split", "column", "constant"])
def test_an_attribute_may_be_called_like_a_key_of_a_rule(name: str, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    rule = '{ column = "col" }' if name == "column" else '"col"'
    path.write_text(f"[products.attributes]\n{name} = {rule}\n")
    mapping = ColumnMapping().with_assignment("column", f"products.attributes.{name}=col")
    assert read_mapping(path) == mapping


@pytest.mark.parametrize(
    ("rule", "key", "value"),
    [('{ column = "extras" }', "column", "extras"), ("{ constant = '{\"a\": 1}' }", "constant", '{"a": 1}')],
)
def test_a_file_may_say_where_all_attributes_are(rule: str, key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(f"[products]\nattributes = {rule}\n")
    assert read_mapping(path) == ColumnMapping().with_assignment(key, f"products.attributes={value}")


def test_a_section_of_no_attributes_maps_none(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text("[products.attributes]\n")
    assert read_mapping(tmp_path / "map.toml") == ColumnMapping()


def test_only_times_have_a_unit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"products\.price has unit 's'"):
        ColumnMapping().with_assignment("unit", "products.price=s")
    path = tmp_path / "map.toml"
    path.write_text('[products]\nprice = { column = "cost", unit = "s" }\n')
    with pytest.raises(DataError, match=r"products\.price has unit"):
        read_mapping(path)


@pytest.mark.parametrize("rule", ['{ column = "extras", split = ";" }', '{ split = ";", constant = "{}" }'])
def test_the_column_of_all_attributes_is_not_split(rule: str, tmp_path: Path) -> None:
    said = r"products\.attributes has split ';'"
    with pytest.raises(DataError, match=said):
        ColumnMapping().with_assignment("split", "products.attributes=;")
    path = tmp_path / "map.toml"
    path.write_text(f"[products]\nattributes = {rule}\n")
    with pytest.raises(DataError, match=said):
        read_mapping(path)


def test_a_unit_beside_an_attribute_called_column_leads_to_how_that_is_written(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[products.attributes]\ncolumn = "a"\nunit = "b"\n')
    with pytest.raises(DataError, match=r"products\.attributes has unit 'b'") as refused:
        read_mapping(path)
    assert "column = { column = ... }" in refused.value.remedy
