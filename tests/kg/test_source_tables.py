"""Canonical tables as files: what is written comes back, under any names; a broken file is one clear error."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.casting import TimeUnit
from kg.errors import DataError
from kg.quality import Policy, check, clean
from kg.sources.mapping import ColumnMapping, read_mapping
from kg.sources.tables import TableFiles, read_tables
from kg.tables import SCHEMAS, InteractionType, Tables

NOW_MS = 1_750_000_000_000

_letters = st.characters(blacklist_categories=("Cs", "Cc"))
_texts = st.text(_letters, max_size=20).map(str.strip)
_names = _texts.filter(lambda text: bool(text) and " > " not in text)
_ids = st.text(_letters, min_size=1, max_size=40).filter(lambda text: bool(text.strip()))
_attributes = st.dictionaries(_names, _names, max_size=3)
_kinds = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)


@st.composite
def canonical_tables(draw: st.DrawFn) -> Tables:
    """Draw clean tables: what the check accepts and leaves as it is."""
    products = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "product_id": _ids,
                    "title": _texts,
                    "description": _texts,
                    "brand": _texts,
                    "category": st.lists(_names, max_size=3),
                    "price": st.none() | st.floats(0, 1e6),
                    "available": st.none() | st.booleans(),
                    "attributes": _attributes,
                }
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda row: row["product_id"],
        )
    )
    ids = st.sampled_from([row["product_id"] for row in products])
    interactions = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "user_id": _ids,
                    "product_id": ids,
                    "type": st.sampled_from([kind.value for kind in InteractionType]),
                    "at_ms": st.integers(10**11, NOW_MS),
                    "value": st.none() | st.floats(1, 1e6, width=32),
                    "position": st.integers(0, 2**40),
                    "event_id": _ids,
                }
            ),
            max_size=5,
            unique_by=lambda row: row["event_id"],
        )
    )
    facts = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "head": ids,
                    "relation": st.from_regex(r"[A-Z][A-Z0-9_]{3,9}_OF", fullmatch=True),
                    "tail": _ids,
                    "head_kind": st.just("product"),
                    "tail_kind": _kinds.filter(lambda kind: kind != "product"),
                }
            ),
            max_size=5,
            unique_by=lambda row: tuple(sorted(row.items())),
        )
    )
    users = draw(
        st.lists(
            st.fixed_dictionaries({"user_id": _ids, "attributes": _attributes}),
            max_size=4,
            unique_by=lambda row: row["user_id"],
        )
    )
    rows = {"interactions": interactions, "products": products, "facts": facts, "users": users}
    return Tables(**{name: pa.Table.from_pylist(rows[name], SCHEMAS[name]) for name in SCHEMAS})


def write_csv(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(table.column_names)
        writer.writerows([_spelled(name, row[name]) for name in table.column_names] for row in table.to_pylist())


def _spelled(name: str, value: Any) -> Any:
    return json.dumps(dict(value) if name == "attributes" else value) if isinstance(value, list) else value


def write_json_lines(table: pa.Table, path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in table.to_pylist():
            attributes = {"attributes": dict(row["attributes"])} if "attributes" in row else {}
            file.write(json.dumps(row | attributes, ensure_ascii=False) + "\n")


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)


def content(tables: Tables) -> dict[str, list[dict[str, Any]]]:
    """Return rows to compare: attributes in no order."""
    return {
        name: [
            {key: dict(value) if key == "attributes" else value for key, value in row.items()}
            for row in table.to_pylist()
        ]
        for name, table in tables
    }


@pytest.mark.parametrize(
    ("suffix", "write"), [(".csv", write_csv), (".jsonl.gz", write_json_lines), (".parquet", write_parquet)]
)
@given(tables=canonical_tables())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_come_back_from_every_format(
    suffix: str, write: Callable[[pa.Table, Path], None], tables: Tables, tmp_path: Path
) -> None:
    files = {}
    for name, table in tables:
        if len(table):  # a file of no lines is refused
            files[name] = (tmp_path / f"{name}{suffix}",)
            write(table, files[name][0])
    back = clean(read_tables(TableFiles(**files)), Policy(strict=True), now_ms=NOW_MS)
    assert content(back.tables) == content(tables)


def test_columns_are_renamed_filled_split_and_scaled(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("who,what,when\nann,p1,1700000000\nbob,p2,1700000001.5\n")
    (tmp_path / "items.csv").write_text("sku;path;maker;col\np1;A/B;Leaf;red\np2;;Leaf;\n")
    (tmp_path / "map.toml").write_text(
        '[interactions]\nuser_id = "who"\nproduct_id = "what"\ntype = { constant = "click" }\n'
        'at_ms = { column = "when", unit = "s" }\n'
        '[products]\nproduct_id = "sku"\ncategory = { column = "path", split = "/" }\nbrand = "maker"\n'
        '[products.attributes]\ncolour = "col"\nshop = { constant = "north" }\n'
    )
    mapping = read_mapping(tmp_path / "map.toml")
    items = read_tables(TableFiles(products=(tmp_path / "items.csv",), delimiter=";"), mapping)
    clicks = read_tables(TableFiles(interactions=(tmp_path / "clicks.csv",)), mapping)
    products = clean(items).tables.products.to_pylist()
    assert [(row["product_id"], row["category"], row["brand"]) for row in products] == [
        ("p1", ["A", "B"], "Leaf"),
        ("p2", [], "Leaf"),
    ]
    assert [dict(row["attributes"]) for row in products] == [{"colour": "red", "shop": "north"}, {"shop": "north"}]
    events = clean(clicks).tables.interactions.to_pylist()
    assert [(row["user_id"], row["type"], row["at_ms"]) for row in events] == [
        ("ann", "click", 1_700_000_000_000),
        ("bob", "click", 1_700_000_001_500),
    ]


def test_command_line_assignments_say_the_same_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[interactions]\nat_ms = { column = "when", unit = "s" }\ntype = { constant = "click" }\n')
    mapping = (
        ColumnMapping()
        .with_assignment("column", "interactions.at_ms=when")
        .with_assignment("unit", "interactions.at_ms=s")
        .with_assignment("constant", "interactions.type=click")
    )
    assert mapping == read_mapping(path)
    assert mapping.of("interactions")["at_ms"].unit is TimeUnit.SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "[clicks]\nuser_id = 'who'\n",
        "[interactions]\nuser = 'who'\n",
        "[interactions]\nat_ms = { unit = 'minutes' }\n",
        "[interactions]\nat_ms = 5\n",
        "[interactions]\nat_ms = { from = 'x' }\n",
        "[interactions]\nattributes = { colour = 'x' }\n",
        "interactions = 'x'\n",
        "[interactions\n",
    ],
)
def test_wrong_mapping_file_is_one_clear_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"map\.toml|mapping|unit"):
        read_mapping(path)


@pytest.mark.parametrize("assignment", ["interactions.at_ms", "at_ms=x", "interactions.at_ms=", "x.y=z"])
def test_wrong_assignment_is_one_clear_error(assignment: str) -> None:
    with pytest.raises(DataError):
        ColumnMapping().with_assignment("column", assignment)


def test_mapped_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("who,what\nann,p1\n")
    mapping = ColumnMapping().with_assignment("column", "interactions.user_id=person")
    with pytest.raises(DataError, match=r"clicks\.csv has no column 'person'.*interactions\.user_id") as raised:
        read_tables(TableFiles(interactions=(path,)), mapping)
    assert "who, what" in raised.value.remedy


def test_several_files_of_a_table_are_read_in_order_with_their_own_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("product_id,price\np1,1\n")
    (tmp_path / "b.jsonl").write_text('{"product_id": "p2", "price": 2.5}\n{"product_id": "", "price": null}\n')
    raw = read_tables(TableFiles(products=(tmp_path / "a.csv", tmp_path / "b.jsonl")))
    result = check(raw, Policy())
    assert result.tables.products["product_id"].to_pylist() == ["p1", "p2"]
    assert result.tables.products["price"].to_pylist() == [1.0, 2.5]
    assert [(row["file"], row["line"]) for row in result.refused.to_pylist()] == [("b.jsonl", 2)]


def test_lines_of_a_csv_are_counted_past_blank_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_bytes(b'user_id,attributes\nann,{}\n\nbob\ncid,{},x\n,{}\n\xff,{}\n"dan","{""a"": ""b""}"\n')
    result = check(read_tables(TableFiles(users=(path,))), Policy())
    assert result.tables.users["user_id"].to_pylist() == ["ann", "dan"]
    assert [(row["line"], row["rule"]) for row in result.refused.to_pylist()] == [
        (4, "columns"),
        (5, "columns"),
        (7, "encoding"),
        (6, "id_empty"),
    ]
    assert result.report.tables["users"].read == 6


def test_json_values_of_mixed_types_are_judged_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "products.jsonl"
    lines = [
        {"product_id": "p1", "price": 3, "category": ["A", "B"]},
        {"product_id": 2, "price": "4.5", "category": "A > C"},
        {"product_id": "p3", "price": [1]},
        {"product_id": "\ud800", "price": 1},
    ]
    path.write_text("\n".join(["not json", *map(json.dumps, lines), "[1, 2]"]))
    result = check(read_tables(TableFiles(products=(path,))), Policy())
    rows = result.tables.products.to_pylist()
    assert [(row["product_id"], row["price"], row["category"]) for row in rows] == [
        ("p1", 3.0, ["A", "B"]),
        ("2", 4.5, ["A", "C"]),
    ]
    assert [(row["line"], row["rule"]) for row in result.refused.to_pylist()] == [
        (1, "json"),
        (6, "json"),
        (5, "encoding"),
        (4, "type"),
    ]


def _gzip_cut(data: bytes) -> bytes:
    packed = gzip.compress(data, mtime=0)
    return packed[: len(packed) // 2]


_MANY = b"user_id,product_id\n" + b"".join(b"user-%d,product-%d\n" % (n, n * 7919) for n in range(5000))
_MANY_JSON = b"".join(b'{"user_id": "user-%d", "product_id": "%d"}\n' % (n, n * 7919) for n in range(5000))


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"user_id": ["a"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("x.jsonl", b"", "is empty"),
        ("x.parquet", b"", "is empty"),
        ("x.csv.gz", _gzip_cut(_MANY), "truncated or damaged gzip"),
        ("x.jsonl.gz", _gzip_cut(_MANY_JSON), r"truncated or damaged gzip after line [1-9]"),
        ("x.csv.gz", gzip.compress(_MANY, mtime=0)[:-4], "truncated or damaged gzip"),
        ("x.jsonl.gz", b"\x1f\x8bnot gzip at all", "truncated or damaged gzip"),
        ("x.parquet", _parquet()[:-20], "can't be read"),
        ("x.csv", b"user_id;product_id\na;b\n", "has a semicolon in it"),
        ("x.csv", b"user_id\tproduct_id\na\tb\n", "has a tab in it"),
        ("x.csv", b"user_id,user_id\na,b\n", "'user_id' twice"),
        ("x.csv", "user_id,product_id\na,b\n".encode("utf-16"), "not UTF-8"),
        ("x.csv", b"\n\n", "no column names"),
        ("x.jsonl", b"user_id,product_id\na,b\n", "line 1 is not a JSON object"),
        ("x.json", b"[\n{}\n]\n", r"column user_id is missing"),
        ("x.csv", b"user,product\na,b\n", r"interactions \(x\.csv\): column user_id is missing"),
        ("x.xlsx", b"PK", "no suffix that tells its format"),
    ],
)
def test_broken_file_is_one_clear_error(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=said) as raised:
        check(read_tables(TableFiles(interactions=(path,))), Policy())
    assert "x." in raised.value.problem
    assert raised.value.remedy


def test_missing_file_and_no_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_tables(TableFiles(users=(tmp_path / "users.csv",)))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_tables(TableFiles(users=(tmp_path / "folder.csv",)))
    with pytest.raises(DataError, match="no table is given"):
        read_tables(TableFiles())


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_bytes(b"\xef\xbb\xbfuser_id,attributes\r\nann,{}\r\n")
    assert clean(read_tables(TableFiles(users=(path,)))).tables.users["user_id"].to_pylist() == ["ann"]


def test_beauty_loads_with_the_committed_mapping() -> None:
    root = Path(__file__).parents[2]
    folder = root.parent / "shared" / "data" / "amazon-beauty"
    if not folder.is_dir():
        pytest.skip("the Beauty data set is not here")
    files = TableFiles(
        interactions=(folder / "interactions.parquet",),
        products=(folder / "products.parquet",),
        facts=(folder / "relations.parquet",),
    )
    result = clean(read_tables(files, read_mapping(root / "configs" / "beauty-map.toml")))
    assert {name: len(table) for name, table in result.tables} == {
        "interactions": 198_502,
        "products": 12_101,
        "facts": 403_716,
        "users": 0,
    }
    assert result.report.tables["facts"].dropped == 1_055_553 - 403_716
    assert sorted(result.tables.facts["relation"].unique().to_pylist()) == [
        "ALSO_BOUGHT",
        "ALSO_VIEWED",
        "BOUGHT_TOGETHER",
    ]
    assert result.tables.products["category"][0].as_py() == [
        "Beauty",
        "Makeup",
        "Face",
        "Concealers & Neutralizers",
    ]
