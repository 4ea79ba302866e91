"""Every rule of the quality check, what is done with the rows that break it, and when a load is stopped."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kg.casting import TimeUnit
from kg.errors import ConfigError, DataError
from kg.quality import Checked, Outside, Policy, check, clean
from kg.quality.identity import occurrences
from kg.quality.report import Action
from kg.sources.raw import Raw, RawTable, with_origin
from kg.tables import CATEGORY_SEPARATOR, SCHEMAS

NOW_MS = 1_750_000_000_000
AT_MS = 1_740_000_000_000
DAY_MS = 86_400_000

EVENT = {"user_id": "u1", "product_id": "p1", "type": "purchase", "at_ms": AT_MS, "value": 1.0}
PRODUCT = {"product_id": "p1", "title": "Tea", "price": 2.5}
FACT = {"head": "p1", "relation": "ALSO_BOUGHT", "tail": "p2", "head_kind": "product", "tail_kind": "product"}

Rows = list[dict[str, Any]]


def table_of(rows: Rows) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)})


def raw(unit: TimeUnit | None = None, repeats_are_events: bool = True, **tables: Rows) -> Raw:
    return Raw(
        "test",
        {
            name: RawTable(
                with_origin(table_of(rows), f"{name}.csv", np.arange(2, len(rows) + 2)),
                unit if name == "interactions" else None,
                repeats_are_events,
            )
            for name, rows in tables.items()
        },
    )


def checked(policy: Policy | None = None, **tables: Rows) -> Checked:
    return check(raw(**tables), policy or Policy(), now_ms=NOW_MS)


def rules_of(result: Checked) -> list[tuple[str, str, str, int]]:
    return [(rule.table, rule.field, rule.rule, rule.rows) for rule in result.report.rules]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("user_id", "", "id_empty"),
        ("user_id", "  ", "id_empty"),
        ("user_id", None, "id_empty"),
        ("user_id", "é" * 129, "id_too_long"),
        ("user_id", "u\x00", "id_control_character"),
        ("product_id", "p1\n", "id_control_character"),
        ("product_id", "unknown", "outside_catalogue"),
        ("type", "bought", "type_unknown"),
        ("type", None, "type_unknown"),
        ("at_ms", None, "time_missing"),
        ("at_ms", -1, "time_negative"),
        ("at_ms", AT_MS // 1000, "time_unit"),
        ("at_ms", AT_MS * 1000, "time_unit"),
        ("at_ms", NOW_MS + 2 * DAY_MS, "time_future"),
        ("value", float("inf"), "value_not_finite"),
        ("value", 0.0, "quantity_not_positive"),
        ("event_id", "e" * 257, "id_too_long"),
        ("position", -1, "position_negative"),
    ],
)
def test_interaction_that_breaks_a_rule_is_refused_and_counted(field: str, value: Any, rule: str) -> None:
    good = [EVENT | {"user_id": f"u{n}"} for n in range(20)]
    result = checked(interactions=[*good, EVENT | {field: value}], products=[PRODUCT])
    assert rules_of(result) == [("interactions", field, rule, 1)]
    assert len(result.tables.interactions) == 20
    count = result.report.tables["interactions"]
    assert (count.read, count.kept, count.refused) == (21, 20, 1)
    first = result.report.rules[0]
    assert (first.first_file, first.first_line, first.action) == ("interactions.csv", 22, Action.REFUSED)


@pytest.mark.parametrize(
    ("field", "value"), [("at_ms", "soon"), ("value", "many"), ("position", "last"), ("user_id", b"\xff")]
)
def test_value_that_cannot_be_read_is_refused_with_its_text(field: str, value: Any) -> None:
    def spelled(item: Any) -> bytes | None:
        return item if isinstance(item, bytes) else str(item).encode()

    rows = [{key: spelled(item) for key, item in row.items()} for row in [EVENT, EVENT, EVENT | {field: value}]]
    result = checked(interactions=rows)
    rule = "encoding" if field == "user_id" else "type"
    assert result.refused.to_pylist()[-1] == {
        "table": "interactions",
        "file": "interactions.csv",
        "line": 4,
        "field": field,
        "value": "\\xff" if field == "user_id" else value,
        "rule": rule,
    }


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("product_id", "", "id_empty"),
        ("price", -1.0, "price_out_of_range"),
        ("price", 1e12, "price_out_of_range"),
        ("price", float("inf"), "price_out_of_range"),
    ],
)
def test_product_that_breaks_a_rule_is_refused(field: str, value: Any, rule: str) -> None:
    result = checked(products=[PRODUCT, PRODUCT | {"product_id": "p2", field: value}])
    assert rules_of(result) == [("products", field, rule, 1)]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("relation", "also bought", "name_malformed"),
        ("relation", "X`) DETACH DELETE (n", "name_malformed"),
        ("relation", "PURCHASED", "relation_reserved"),
        ("tail_kind", "Product", "name_malformed"),
        ("tail", "", "id_empty"),
    ],
)
def test_fact_that_breaks_a_rule_is_refused(field: str, value: str, rule: str) -> None:
    result = checked(products=[PRODUCT, PRODUCT | {"product_id": "p2"}], facts=[FACT, FACT | {field: value}])
    assert rules_of(result) == [("facts", field, rule, 1)]
    assert len(result.tables.facts) == 1


def test_row_that_breaks_several_rules_is_one_bad_row() -> None:
    result = checked(interactions=[EVENT, EVENT | {"user_id": "", "at_ms": None, "type": "x"}], products=[PRODUCT])
    assert len(result.report.rules) == 3
    assert result.report.tables["interactions"].refused == 1
    assert len(result.refused) == 3


def test_texts_are_mended_and_counted_not_refused() -> None:
    product = PRODUCT | {
        "title": " Green\x00Tea\n",
        "brand": "b" * 300,
        "category": ["Tea > Green", "Loose"],
    }
    result = checked(products=[product])
    row = result.tables.products.to_pylist()[0]
    assert (row["title"], row["brand"], row["category"]) == ("Green Tea", "", ["Tea / Green", "Loose"])
    assert {rule.rule for rule in result.report.rules} == {
        "text_control_character",
        "brand_too_long",
        "category_separator",
    }
    assert {rule.action for rule in result.report.rules} == {Action.MENDED}


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ("a > b", "a / b"),
        ("a >", "a /"),
        ("a > > b", "a / b"),
        ("a >\n", "a /"),
        ("a\t>\tb", "a / b"),
        ("a >b", "a >b"),
    ],
)
def test_a_mended_category_is_the_same_once_its_path_is_joined_and_split(name: str, mended: str) -> None:
    result = checked(products=[PRODUCT | {"category": [name, "> c"]}])
    (category,) = result.tables.products["category"].to_pylist()
    assert category == [mended, "> c"]
    assert CATEGORY_SEPARATOR.join(category).split(CATEGORY_SEPARATOR) == category


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"notes": "x" * 1025, "roast": "dark"}, [("roast", "dark")]),
        ({"notes": "é" * 513}, []),
        ({"k" * 257: "x", "k" * 256: "é" * 512}, [("k" * 256, "é" * 512)]),
    ],
)
@pytest.mark.parametrize("table", ["products", "users"])
def test_an_attribute_that_is_too_long_is_left_out_and_counted(
    table: str, attributes: dict[str, str], kept: list[tuple[str, str]]
) -> None:
    key = {"products": "product_id", "users": "user_id"}[table]
    rows = [{key: "a", "attributes": b'{"b": "1"}'}, {key: "b", "attributes": json.dumps(attributes).encode()}]
    result = checked(**{table: [*rows, {key: "c", "attributes": None}]})
    assert rules_of(result) == [(table, "attributes", "attribute_too_long", 1)]
    assert result.report.rules[0].action is Action.MENDED
    assert getattr(result.tables, table)["attributes"].to_pylist() == [[("b", "1")], kept, []]


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (["a", "b" * 257, "c"], ["a"]),
        (["é" * 129], []),
        ([str(level) for level in range(17)], [str(level) for level in range(16)]),
        (["x" * 256] * 9, ["x" * 256] * 7),  # 7 of them have 1,810 bytes, 8 have 2,069
    ],
)
def test_a_category_path_that_is_too_long_is_cut_and_counted(path: list[str], kept: list[str]) -> None:
    longest = ["x" * 253, *["y" * 253] * 7]  # 2,045 bytes
    rows = [{"product_id": str(place), "category": each} for place, each in enumerate([longest, path, []])]
    result = checked(products=rows)
    assert rules_of(result) == [("products", "category", "category_too_long", 1)]
    assert result.tables.products["category"].to_pylist() == [longest, kept, []]


def test_missing_optional_columns_take_their_defaults() -> None:
    result = checked(interactions=[{k: v for k, v in EVENT.items() if k != "value"}], products=[{"product_id": "p1"}])
    assert result.tables.products.to_pylist() == [
        {
            "product_id": "p1",
            "title": "",
            "description": "",
            "brand": "",
            "category": [],
            "price": None,
            "available": None,
            "attributes": [],
        }
    ]
    event = result.tables.interactions.to_pylist()[0]
    assert (event["value"], event["position"], len(event["event_id"])) == (None, 0, 32)


@pytest.mark.parametrize("table", ["interactions", "products", "facts", "users"])
def test_missing_required_column_is_one_clear_error(table: str) -> None:
    with pytest.raises(DataError, match=rf"{table} \({table}.csv\): column .* is missing") as raised:
        checked(**{table: [{"other": "x"}]})
    assert f"--map {table}." in raised.value.remedy


@pytest.mark.parametrize(("factor", "unit"), [(0.001, "s"), (1000, "us"), (1_000_000, "ns")])
def test_column_in_another_unit_is_one_clear_error(factor: float, unit: str) -> None:
    rows = [EVENT | {"at_ms": int((AT_MS + n) * factor)} for n in range(10)]
    with pytest.raises(DataError, match=r"interactions\.at_ms") as raised:
        checked(interactions=rows)
    assert f"--unit interactions.at_ms={unit}" in raised.value.remedy
    result = check(raw(TimeUnit(unit), interactions=rows), Policy(), now_ms=NOW_MS)
    assert len(result.tables.interactions) == 10


def test_declared_unit_and_written_dates_may_be_long_ago() -> None:
    old = check(raw(TimeUnit.MILLISECONDS, interactions=[EVENT | {"at_ms": 5}]), Policy(), now_ms=NOW_MS)
    assert old.tables.interactions["at_ms"].to_pylist() == [5]
    written = checked(interactions=[EVENT | {"at_ms": "1970-01-02"}])
    assert written.tables.interactions["at_ms"].to_pylist() == [DAY_MS]


def test_same_event_id_twice_is_one_event() -> None:
    rows = [EVENT | {"event_id": "e1"}, EVENT | {"event_id": "e1", "value": 3.0}, EVENT | {"event_id": "e2"}]
    result = checked(interactions=rows)
    assert result.tables.interactions["event_id"].to_pylist() == ["e1", "e2"]
    assert rules_of(result) == [("interactions", "event_id", "duplicate", 1)]
    assert result.report.tables["interactions"].refused == 0


def test_equal_rows_are_two_events_unless_the_source_says_otherwise() -> None:
    assert len(checked(interactions=[EVENT, EVENT]).tables.interactions) == 2
    once = check(raw(repeats_are_events=False, interactions=[EVENT, EVENT]), Policy(), now_ms=NOW_MS)
    assert len(once.tables.interactions) == 1


def test_derived_event_ids_are_the_same_in_every_load() -> None:
    rows = [EVENT, EVENT, EVENT | {"value": None}, EVENT | {"user_id": "u2"}]
    first = checked(interactions=rows).tables.interactions["event_id"].to_pylist()
    assert len(set(first)) == 4
    assert checked(interactions=rows).tables.interactions["event_id"].to_pylist() == first
    # A file that has grown keeps the ids of what it had, and order does not matter.
    longer = checked(interactions=[EVENT | {"user_id": "u0"}, *rows[::-1]]).tables.interactions["event_id"].to_pylist()
    assert set(first) < set(longer)


def test_given_and_derived_event_ids_can_be_mixed() -> None:
    ids = checked(interactions=[EVENT | {"event_id": "mine"}, EVENT]).tables.interactions["event_id"].to_pylist()
    assert ids[0] == "mine"
    assert len(ids[1]) == 32


def test_first_of_duplicate_products_users_and_facts_stays() -> None:
    result = checked(
        products=[PRODUCT, PRODUCT | {"title": "Other"}, PRODUCT | {"product_id": "p2"}],
        users=[{"user_id": "u1"}, {"user_id": "u1"}],
        facts=[FACT, FACT],
    )
    assert result.tables.products["title"].to_pylist() == ["Tea", "Tea"]
    assert {name: len(table) for name, table in result.tables} == {
        "interactions": 0,
        "products": 2,
        "facts": 1,
        "users": 1,
    }


def test_occurrences_agree_with_counting_by_hand() -> None:
    generator = np.random.default_rng(0)
    columns = [pa.array(generator.integers(0, 4, 500)), pa.array(generator.choice(["a", "b", None], 500).tolist())]
    seen: dict[tuple[Any, ...], int] = {}
    expected = []
    for row in zip(*(column.to_pylist() for column in columns), strict=True):
        expected.append(seen.get(row, 0))
        seen[row] = expected[-1] + 1
    assert occurrences(columns).tolist() == expected


@pytest.mark.parametrize(
    ("action", "kept", "dropped", "refused"),
    [(Outside.DROP, 1, 2, 0), (Outside.BARE, 3, 0, 0), (Outside.REFUSE, 1, 0, 2)],
)
def test_policy_for_facts_outside_the_catalogue(action: Outside, kept: int, dropped: int, refused: int) -> None:
    facts = [FACT, FACT | {"tail": "gone"}, FACT | {"head": "gone", "tail": "lost"}]
    brand = FACT | {"relation": "MADE_BY", "tail": "leaf", "tail_kind": "maker"}
    products = [PRODUCT, PRODUCT | {"product_id": "p2"}]
    result = checked(Policy({"facts": action}), products=products, facts=[*facts, brand])
    count = result.report.tables["facts"]
    assert (count.kept, count.dropped, count.refused) == (kept + 1, dropped, refused)
    assert len(result.refused) == refused


def test_facts_outside_are_dropped_and_interactions_refused_by_default() -> None:
    result = checked(products=[PRODUCT], facts=[FACT], interactions=[EVENT, EVENT | {"product_id": "gone"}])
    assert result.report.tables["facts"].dropped == 1
    assert result.report.tables["interactions"].refused == 1


def test_without_a_catalogue_interactions_make_bare_products() -> None:
    result = checked(interactions=[EVENT, EVENT | {"product_id": "p9"}], facts=[FACT])
    assert result.tables.products["product_id"].to_pylist() == ["p1", "p9"]
    assert result.report.tables["products"].bare == 2
    assert len(result.tables.facts) == 1


def test_too_many_bad_rows_stop_the_load_and_a_few_do_not() -> None:
    rows = [EVENT | {"user_id": f"u{n}"} for n in range(95)] + [EVENT | {"user_id": ""}] * 5
    assert len(clean(raw(interactions=rows), now_ms=NOW_MS).tables.interactions) == 95
    with pytest.raises(DataError, match=r"6 of 101 rows \(5.9%\) are bad.*id_empty in user_id .*line 97"):
        clean(raw(interactions=[*rows, EVENT | {"user_id": ""}]), now_ms=NOW_MS)
    with pytest.raises(DataError, match="strict accepts none"):
        clean(raw(interactions=rows), Policy(strict=True), now_ms=NOW_MS)


def test_strict_refuses_duplicates_but_not_what_the_policy_drops() -> None:
    products = [PRODUCT]
    assert clean(raw(products=products, facts=[FACT]), Policy(strict=True)).report.tables["facts"].dropped == 1
    with pytest.raises(DataError, match="1 duplicate"):
        clean(raw(products=[*products, PRODUCT]), Policy(strict=True))


@pytest.mark.parametrize("policy", [{"max_bad": 1.5}, {"max_bad": -0.1}, {"outside": {"users": Outside.DROP}}])
def test_impossible_policy_is_a_config_error(policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy(**policy)


def test_report_holds_counts_and_no_content() -> None:
    result = checked(interactions=[EVENT | {"user_id": "secret\x00person"}, EVENT])
    text = json.dumps(result.report.as_dict())
    assert "secret" not in text
    assert json.loads(text)["tables"]["interactions"]["bad_share"] == 0.5


def test_every_table_comes_out_in_its_schema() -> None:
    for name, table in checked().tables:
        assert table.schema.equals(SCHEMAS[name])


def test_written_times_beside_them_do_not_say_what_numbers_mean() -> None:
    rows = [EVENT | {"at_ms": str((AT_MS + n) // 1000)} for n in range(10)]
    with pytest.raises(DataError, match=r"interactions\.at_ms"):
        checked(interactions=[EVENT | {"at_ms": "2024-01-02"}, *rows])
    few = checked(interactions=[*(EVENT | {"at_ms": str(AT_MS + n)} for n in range(20)), rows[0]])
    assert rules_of(few) == [("interactions", "at_ms", "time_unit", 1)]
