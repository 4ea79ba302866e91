"""A column's type is a file's own matter: values come through beside other types, and what can't is told."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kg.errors import DataError
from kg.quality import Policy, check, clean
from kg.sources.mapping import ColumnMapping
from kg.sources.raw import RawTable, stacked, with_origin
from kg.sources.tables import TableFiles, read_tables
from kg.tables import ATTRIBUTES


def products(folder: Path, *tables: dict[str, Any]) -> TableFiles:
    paths = tuple(folder / f"{number}.parquet" for number in range(len(tables)))
    for path, columns in zip(paths, tables, strict=True):
        pq.write_table(pa.table(columns), path)
    return TableFiles(products=paths)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_whole_numbers_of_a_floating_column_are_integers_beside_text(kind: pa.DataType, tmp_path: Path) -> None:
    number = 4_006_381_333_931 if kind == pa.float64() else 16_777_216
    files = products(
        tmp_path,
        {"product_id": pa.array([number, None], kind), "price": pa.array([2.5, float("nan")], kind)},
        {"product_id": ["x", str(number + 1)], "price": ["3", None]},
    )
    result = check(read_tables(files), Policy())
    assert result.tables.products["product_id"].to_pylist() == [str(number), "x", str(number + 1)]
    assert result.tables.products["price"].to_pylist() == [2.5, 3.0, None]
    assert [(row["line"], row["rule"]) for row in result.refused.to_pylist()] == [(2, "id_empty")]


def test_maps_and_lists_come_through_beside_a_column_of_other_types(tmp_path: Path) -> None:
    attributes = pa.array([[("a", "1"), ("a", "2")], None], ATTRIBUTES)
    files = products(
        tmp_path,
        {"product_id": [1, 2], "attributes": attributes, "category": [["A > B", "C"], []]},
        {"product_id": ["x"]},
    )
    rows = clean(read_tables(files), Policy(strict=True)).tables.products.to_pylist()
    assert [(row["product_id"], row["attributes"]) for row in rows] == [
        ("1", [("a", "1"), ("a", "2")]),
        ("2", []),
        ("x", []),
    ]
    assert [len(row["category"]) for row in rows] == [2, 0, 0]


def test_a_category_list_is_read_alike_whatever_the_other_lines_have(tmp_path: Path) -> None:
    path = tmp_path / "products.jsonl"
    lists: list[list[Any]] = [["A", None], ["B > C", "D"], []]
    numbers: list[list[Any]] = [[1, None], [20, 3]]
    found = []
    for lines in ([*lists], [*lists, "[Sale] Shoes"], [*numbers], [*numbers, "[Sale] Shoes"]):
        rows = [{"product_id": str(number), "category": category} for number, category in enumerate(lines)]
        path.write_text("\n".join(map(json.dumps, rows)))
        found.append(clean(read_tables(TableFiles(products=(path,)))).tables.products)
    assert found[1].slice(0, 3) == found[0]
    assert found[3].slice(0, 2) == found[2]
    assert found[1]["category"][3].as_py() == found[3]["category"][2].as_py() == ["[Sale] Shoes"]
    assert found[2]["category"].to_pylist() == [["1"], ["20", "3"]]


def test_a_list_is_not_split(tmp_path: Path) -> None:
    mapping = ColumnMapping().with_assignment("split", "products.category=/")
    files = products(tmp_path, {"product_id": ["p1"], "category": [["A/B", "C"]]})
    with pytest.raises(DataError, match=r"0\.parquet: column 'category'.* is a list already") as raised:
        read_tables(files, mapping)
    assert "--split products.category" in raised.value.remedy


def test_a_split_text_that_is_not_utf8_is_refused_and_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("product_id,category\np1,Café/B\np2,A/B\n".encode("latin-1"))
    mapping = ColumnMapping().with_assignment("split", "products.category=/")
    result = check(read_tables(TableFiles(products=(path,)), mapping), Policy())
    assert result.tables.products["category"].to_pylist() == [["A", "B"]]
    assert [(row["line"], row["field"], row["rule"]) for row in result.refused.to_pylist()] == [
        (2, "category", "encoding")
    ]


def test_split_texts_come_through_beside_a_column_of_other_types(tmp_path: Path) -> None:
    mapping = ColumnMapping().with_assignment("split", "products.category=/")
    files = products(
        tmp_path, {"product_id": [1], "category": ["A/B"]}, {"product_id": ["x"], "category": pa.array([5.0])}
    )
    found = clean(read_tables(files, mapping), Policy(strict=True)).tables.products
    assert found["category"].to_pylist() == [["A", "B"], ["5"]]


def test_a_relation_outside_ascii_is_refused_and_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(
        "head,relation,tail,tail_kind\np1,has 颜色,red,value\np1,has 尺寸,L,value\np1,made of,steel,value\n",
        encoding="utf-8",
    )
    result = check(read_tables(TableFiles(facts=(path,))), Policy())
    assert result.tables.facts["relation"].to_pylist() == ["MADE_OF"]
    assert [(row["line"], row["value"], row["rule"]) for row in result.refused.to_pylist()] == [
        (2, "has 颜色", "name_malformed"),
        (3, "has 尺寸", "name_malformed"),
    ]


@pytest.mark.parametrize(
    ("relations", "found", "rule"),
    [
        (pa.array([7.0]), ["R_7"], None),
        (pa.array([7], pa.int8()), ["R_7"], None),
        (pa.array(["made of"]).dictionary_encode(), ["MADE_OF"], None),
        (pa.array([b"\xe9"]).dictionary_encode(), [], "encoding"),
        (pa.array([["made of"]]), [], "type"),
        (pa.array([None], pa.null()), [], "name_malformed"),
    ],
)
def test_relations_of_any_type_are_named_or_refused(
    relations: pa.Array, found: list[str], rule: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "facts.parquet"
    pq.write_table(pa.table({"head": ["p"], "relation": relations, "tail": ["q"], "tail_kind": ["x"]}), path)
    result = check(read_tables(TableFiles(facts=(path,))), Policy())
    assert result.tables.facts["relation"].to_pylist() == found
    assert result.refused["rule"].to_pylist() == ([rule] if rule else [])


@pytest.mark.parametrize(
    "kind",
    [pa.float16(), pa.decimal128(9, 2), pa.duration("s"), pa.time32("s"), pa.date32(), pa.bool_(), pa.string_view()],
)
def test_every_type_can_stand_beside_another(kind: pa.DataType) -> None:
    parts = [pa.table({"title": pa.nulls(1, kind)}), pa.table({"title": [["a"]]})]
    found = stacked([with_origin(rows, "p.parquet") for rows in parts])
    assert found["title"].to_pylist() == [None, b'["a"]']


@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary()])
def test_more_text_than_can_be_read_at_once_is_told_with_file_and_column(kind: pa.DataType) -> None:
    part = pa.array(["x" * (64 << 20)]).cast(kind)
    rows = pa.table({"product_id": ["p"] * 33, "title": pa.chunked_array([part] * 33)})
    with pytest.raises(DataError, match=r"p\.parquet: column title holds 2\.1 GiB of text") as raised:
        RawTable(with_origin(rows, "p.parquet"))
    assert "in parts" in raised.value.remedy
