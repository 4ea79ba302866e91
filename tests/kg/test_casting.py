"""Values as files spell them: known answers, and what must survive any spelling."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.casting import TimeUnit, cast, plain, to_time_ms
from kg.errors import DataError
from kg.tables import ATTRIBUTES

PATH = pa.list_(pa.string())


@pytest.mark.parametrize(
    ("spelled", "at"),
    [
        ("2014-07-01", "2014-07-01T00:00:00+00:00"),
        ("2014-07-01T10:20", "2014-07-01T10:20:00+00:00"),
        ("2014-07-01 10:20:30", "2014-07-01T10:20:30+00:00"),
        ("2014-07-01T10:20:30Z", "2014-07-01T10:20:30+00:00"),
        ("2014-07-01 10:20:30 UTC", "2014-07-01T10:20:30+00:00"),
        ("2014-07-01T10:20:30.5", "2014-07-01T10:20:30.500+00:00"),
        ("2014-07-01T10:20:30,123456789+02:00", "2014-07-01T08:20:30.123+00:00"),
        ("2014-07-01T10:20:30-0530", "2014-07-01T15:50:30+00:00"),
        ("2014-07-01T10:20+02", "2014-07-01T08:20:00+00:00"),
        (" 1404209430 ", "2014-07-01T10:10:30+00:00"),
        ("1404209430.25", "2014-07-01T10:10:30.250+00:00"),
        ("1.404209430e9", "2014-07-01T10:10:30+00:00"),
    ],
)
def test_time_is_read_as_it_is_spelled(spelled: str, at: str) -> None:
    found = to_time_ms(pa.array([spelled]), TimeUnit.SECONDS)
    assert found.values.to_pylist() == [int(datetime.fromisoformat(at).timestamp() * 1000)]
    assert not found.bad.any()


def test_time_that_names_no_moment_is_bad_and_a_missing_one_is_not() -> None:
    found = to_time_ms(pa.array(["2014-02-31", "yesterday", "2014-07-01T25:00", "", None, "1e999"]), None)
    assert found.values.null_count == 6
    assert found.bad.tolist() == [True, True, True, False, False, True]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.binary()])
def test_unit_scales_numbers_of_every_type(unit: str, per_second: int, kind: pa.DataType) -> None:
    number = 1_404_209_430 * per_second
    column = pa.array([number]).cast(kind, safe=False) if kind != pa.binary() else pa.array([str(number).encode()])
    assert to_time_ms(column, TimeUnit(unit)).values.to_pylist() == [1_404_209_430_000]


def test_arrow_timestamps_carry_their_own_unit_and_zone() -> None:
    moment = datetime(2014, 7, 1, 10, tzinfo=UTC)
    for kind in (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "Europe/Berlin")):
        at = moment if kind.tz else moment.replace(tzinfo=None)
        column = pa.chunked_array([pa.array([at, None], kind)])
        assert to_time_ms(column, TimeUnit.SECONDS).values.to_pylist() == [int(moment.timestamp() * 1000), None]
    assert to_time_ms(pa.array([date(2014, 7, 1)]), None).values.to_pylist() == [1_404_172_800_000]


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_iso_times_of_any_offset_agree_with_the_standard_library(naive: datetime, offset_minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    whole_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert to_time_ms(pa.array([moment.isoformat()]), None).values.to_pylist() == [whole_ms]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string(), pa.binary(), pa.decimal128(38, 0)])
def test_nanoseconds_are_the_same_moment_in_every_spelling(kind: pa.DataType) -> None:
    column = pa.array([1_736_473_513_905_999_999]).cast(kind if kind != pa.binary() else pa.string())
    found = to_time_ms(column.cast(kind), TimeUnit.NANOSECONDS)
    assert found.values.to_pylist() == [1_736_473_513_905]
    assert not found.bad.any()


def test_the_largest_whole_number_is_read_and_a_larger_one_is_none() -> None:
    largest = 2**63 - 1
    spelled = [str(largest), f"+{largest}.0", f"-{largest}", f"000{largest}", str(largest + 1), "9" * 400]
    found = cast(pa.array(spelled), pa.int64())
    assert found.values.to_pylist() == [largest, largest, -largest, largest, None, None]
    assert found.bad.tolist() == [False] * 4 + [True] * 2


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63) + 1, 2**63 - 1))))
def test_whole_numbers_survive_every_spelling(numbers: list[int | None]) -> None:
    texts = [None if number is None else str(number) for number in numbers]
    for column in (pa.array(numbers, pa.int64()), pa.array(texts, pa.string()), pa.array(texts, pa.large_string())):
        found = cast(column, pa.int64())
        assert found.values.to_pylist() == numbers
        assert not found.bad.any()


def test_numbers_that_are_none_are_marked_and_blanks_are_missing() -> None:
    found = cast(pa.array(["1", "+2", "3.0", "4.5", "x", "", " ", "NA", None, "١"]), pa.int64())
    assert found.values.to_pylist() == [1, 2, 3, None, None, None, None, None, None, None]
    assert np.flatnonzero(found.bad).tolist() == [3, 4, 9]


def test_nan_is_missing_and_infinity_is_left_for_the_range_rule() -> None:
    found = cast(pa.array([1.5, float("nan"), float("inf"), None]), pa.float32())
    assert found.values.to_pylist() == [1.5, None, float("inf"), None]
    assert not found.bad.any()


def test_numeric_ids_are_written_as_whole_numbers() -> None:
    assert cast(pa.array([7, 8]), pa.string()).values.to_pylist() == ["7", "8"]
    # pandas turns a column of ids with a gap into floats.
    found = cast(pa.array([7.0, float("nan"), 7.5]), pa.string())
    assert found.values.to_pylist() == ["7", None, None]
    assert found.bad.tolist() == [False, False, True]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 2), pa.decimal256(50, 2), pa.decimal64(12, 1)])
def test_decimal_ids_are_written_as_whole_numbers(kind: pa.DataType) -> None:
    found = cast(pa.array([Decimal(5), None, Decimal("7.5"), Decimal("-10")], kind), pa.string())
    assert found.values.to_pylist() == ["5", None, None, "-10"]
    assert found.bad.tolist() == [False, False, True, False]
    assert cast(pa.array([Decimal(5), Decimal("7.5")], kind), pa.int64()).values.to_pylist() == [5, None]


def test_bytes_that_are_not_utf8_are_named_as_such() -> None:
    found = cast(pa.array([b"caf\xe9", "café".encode(), None]), pa.string())
    assert found.values.to_pylist() == [None, "café", None]
    assert (found.bad.tolist(), found.rule) == ([True, False, False], "encoding")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["Food", " Tea ", ""], None, []]),
        pa.array(["Food > Tea", None, ""]),
        pa.array(["Food|Tea", "|", " "]),
        pa.array(['["Food", "Tea"]', "[]", ""]),
        pa.chunked_array([pa.array([["x"], ["Food", "Tea"], None, []], pa.large_list(pa.large_string())).slice(1)]),
    ],
)
def test_category_path_is_read_from_lists_and_texts(column: pa.Array) -> None:
    found = cast(column, PATH)
    assert found.values.to_pylist() == [["Food", "Tea"], [], []]
    assert not found.bad.any()


def test_category_path_of_anything_else_is_bad() -> None:
    # The second is cut off, the third is how Python prints a list.
    texts = [
        '["Food", 1.5]',
        '["Food"',
        "['Food', 'Tea']",
        '[["Food"]]',
        '[{"name": "Food"}]',
        '["\\ud800"]',
        "[" * 9_999,
        "[Coffee, Beans]",
        "[None, 'Coffee']",
        '[nan, "Coffee"]',
        "[nan]",
        "[12, 'x']",
        "[1, 2",
        "[{'name': 'x'}]",
        '[["Food"], ',
    ]
    found = cast(pa.array(texts), PATH)
    assert found.bad.all()


def test_a_category_that_begins_with_a_bracket_is_a_name() -> None:
    found = cast(
        pa.array(["[Sale] Shoes", "[NEW] > Shoes", "[Sale]", "[2024] | Shoes", ' ["A > B", "C"]', "[Sale] Hats, Caps"]),
        PATH,
    )
    assert found.values.to_pylist() == [
        ["[Sale] Shoes"],
        ["[NEW]", "Shoes"],
        ["[Sale]"],
        ["[2024]", "Shoes"],
        ["A > B", "C"],
        ["[Sale] Hats, Caps"],
    ]
    assert not found.bad.any()


@pytest.mark.parametrize(
    "lists",
    [
        [["A", None], [None], [], ["B", ""]],
        [[1, None], [20]],
        [[1.0, float("nan")], [2.5], [1e300], [float("inf")]],
        [[True, False]],
        [["A", "\x7f"]],
    ],
)
def test_a_category_list_is_read_alike_as_a_list_and_as_its_json(lists: list[list[Any]]) -> None:
    as_lists, as_texts = cast(pa.array(lists), PATH), cast(pa.array([json.dumps(each) for each in lists]), PATH)
    good = ~as_lists.bad
    assert as_texts.bad.tolist() == as_lists.bad.tolist()
    assert as_texts.values.filter(pa.array(good)) == as_lists.values.filter(pa.array(good))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(['{"roast": "dark", "kg": 1, "shade": null}', "", "{}"]),
        pa.array([{"roast": "dark", "kg": "1", "shade": None}, None, {"roast": ""}]),
        pa.array([[("roast", "dark"), ("kg", "1")], None, []], ATTRIBUTES),
    ],
)
def test_attributes_are_read_from_objects_maps_and_json(column: pa.Array) -> None:
    found = cast(column, ATTRIBUTES)
    assert found.values.to_pylist() == [[("kg", "1"), ("roast", "dark")], [], []]
    assert not found.bad.any()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(['{"colour": ["red", "blue", null], "kg": NaN, "size": [[1], {}], "box": {"w": 1}}']),
        pa.array([{"colour": ["red", "blue", None], "kg": float("nan"), "size": [1, None], "box": {"w": 1}}]),
    ],
)
def test_of_a_list_each_value_is_an_attribute_and_nan_is_none(column: pa.Array) -> None:
    found = cast(column, ATTRIBUTES).values.to_pylist()
    assert found == [[("box", '{"w": 1}'), ("colour", "blue"), ("colour", "red"), ("size", "1")]]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (pa.map_(pa.int64(), pa.string()), [("1", "2"), ("2", "3")]),
        (pa.map_(pa.string(), pa.float64()), [("1", "2.0"), ("2", "3.0")]),
        (pa.map_(pa.binary(), pa.binary()), [("1", "2"), ("2", "3")]),
        (pa.map_(pa.string(), pa.list_(pa.int8())), [("1", "2"), ("2", "3"), ("2", "4")]),
    ],
)
def test_attributes_are_read_from_maps_of_any_types(kind: pa.DataType, found: list[tuple[str, str]]) -> None:
    def of(number: int, item: pa.DataType) -> object:
        if pa.types.is_list(item):
            return [number] if number == 2 else [number, number + 1]
        return str(number) if pa.types.is_string(item) else str(number).encode() if pa.types.is_binary(item) else number

    pairs = [(of(1, kind.key_type), of(2, kind.item_type)), (of(2, kind.key_type), of(3, kind.item_type))]
    result = cast(pa.array([pairs, None], kind), ATTRIBUTES)
    assert result.values.to_pylist() == [found, []]
    assert not result.bad.any()


def test_attributes_that_are_not_utf8_are_named_as_such() -> None:
    found = cast(pa.array([[("a", b"\xe9")], [("a", b"b")]], pa.map_(pa.string(), pa.binary())), ATTRIBUTES)
    assert (found.bad.tolist(), found.rule) == ([True, False], "encoding")
    assert found.values.to_pylist() == [None, [("a", "b")]]


def test_more_text_than_one_array_holds_is_one_clear_error() -> None:
    part = pa.array([b"x" * (64 << 20)])
    with pytest.raises(DataError, match="more than 2 GiB") as raised:
        plain(pa.chunked_array([part] * 33))
    assert "in parts" in raised.value.remedy


def test_attributes_that_are_no_object_are_bad() -> None:
    found = cast(pa.array(["[1]", "{", '"x"', '{"a": "\\ud800"}']), ATTRIBUTES)
    assert found.bad.all()
    assert cast(pa.array([1, 2]), ATTRIBUTES).bad.all()


def test_availability_is_read_from_booleans_numbers_and_words() -> None:
    column = pa.array(["true", "No", " in stock ", "OUT OF STOCK", "1.0", "0.0", "", None, "n/a", "perhaps"])
    found = cast(column, pa.bool_())
    assert found.values.to_pylist() == [True, False, True, False, True, False, None, None, None, None]
    assert found.bad.nonzero()[0].tolist() == [9]
    assert cast(pa.array(["1", "0"]), pa.bool_()).values.to_pylist() == [True, False]
    numbers = cast(pa.array([1.0, 0.0, None, 2.0]), pa.bool_())
    assert numbers.values.to_pylist() == [True, False, None, None]
    assert numbers.bad.tolist() == [False, False, False, True]
    assert cast(pa.array([True, None]), pa.bool_()).values.to_pylist() == [True, None]
