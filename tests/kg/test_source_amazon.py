"""Amazon's files of three years: the same things come out of each."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kg.errors import DataError
from kg.quality import Outside, Policy, check, clean
from kg.sources.amazon import read_amazon
from kg.sources.amazon_text import brand_name, category_path, plain_text, price_of, title_text

REVIEWS: dict[int, list[dict[str, Any]]] = {
    2014: [
        {"reviewerID": "u1", "asin": "p1", "overall": 4.0, "unixReviewTime": 1400000000, "reviewText": "Good."},
        {"reviewerID": "u1", "asin": "p1", "overall": 4.0, "unixReviewTime": 1400000000, "reviewText": "Good."},
        {"reviewerID": "u2", "asin": "p2", "overall": 1.0, "unixReviewTime": 1400000001, "reviewText": " "},
    ],
    2018: [
        {"reviewerID": "u1", "asin": "p1", "overall": 4.0, "unixReviewTime": 1400000000, "reviewText": "Good."},
        {"reviewerID": "u2", "asin": "p2", "overall": 1.0, "unixReviewTime": 1400000001, "verified": True},
    ],
    2023: [
        {"user_id": "u1", "asin": "v", "parent_asin": "p1", "rating": 4.0, "timestamp": 1400000000000, "text": "Good."},
        {"user_id": "u2", "asin": "w", "parent_asin": "p2", "rating": 1.0, "timestamp": 1400000001000, "text": ""},
    ],
}
METADATA: dict[int, list[dict[str, Any]]] = {
    2014: [
        {
            "asin": "p1",
            "title": "Tea &amp; Cup",
            "description": "Green <b>tea</b>.",
            "brand": "Leaf",
            "categories": [["Food"], ["Food", "Tea"]],
            "price": 12.5,
            "related": {"also_bought": ["p2", "gone"], "also_viewed": ["p2"], "bought_together": ["p2"]},
        },
        {"asin": "p2", "categories": [["Food"]]},
    ],
    2018: [
        {
            "asin": "p1",
            "title": "Tea &amp; Cup",
            "description": ["Green <b>tea</b>.", ""],
            "brand": "Visit Amazon's Leaf Page",
            "category": ["Food", "Tea", "Refreshing at any time of the day.", "</span></span>"],
            "price": "$12.50",
            "also_buy": ["p2", "gone"],
            "also_view": ["p2", "p2", "p1"],
            "bought_together": ["p2"],
        },
        {"asin": "p2", "category": ["Food"], "price": ".a-box-inner{background-color:#fff}", "title": "getTime()"},
    ],
    2023: [
        {
            "parent_asin": "p1",
            "title": "Tea & Cup",
            "description": ["Green tea."],
            "store": "Leaf",
            "categories": ["Food", "Tea"],
            "price": "12.50",
            "bought_together": ["p2"],
            "details": {"Color": "Green", "Package Dimensions": "4 x 2 inches"},
            "main_category": "Grocery",
        },
        {"parent_asin": "p2", "categories": ["Food"], "price": None, "bought_together": None, "description": []},
    ],
}


def write(path: Path, rows: list[dict[str, Any]], *, loose: bool = False) -> Path:
    lines = [repr(row) if loose else json.dumps(row) for row in rows]
    path.write_bytes(gzip.compress("\n".join(lines).encode()) if path.suffix == ".gz" else "\n".join(lines).encode())
    return path


@pytest.mark.parametrize("year", [2014, 2018, 2023])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_every_layout_gives_the_same_tables(year: int, suffix: str, tmp_path: Path) -> None:
    reviews = write(tmp_path / f"reviews{suffix}", REVIEWS[year])
    # The metadata of 2014 are not JSON but Python's own spelling of dictionaries.
    metadata = write(tmp_path / f"meta{suffix}", METADATA[year], loose=year == 2014)
    result = clean(read_amazon([reviews], [metadata]))
    events = result.tables.interactions.to_pylist()
    assert [(row["user_id"], row["product_id"], row["type"], row["at_ms"], row["value"]) for row in events] == [
        ("u1", "p1", "review", 1_400_000_000_000, 4.0),
        ("u2", "p2", "rate", 1_400_000_001_000, 1.0),
    ]
    tea, other = result.tables.products.to_pylist()
    attributes = dict(tea.pop("attributes"))
    assert tea == {
        "product_id": "p1",
        "title": "Tea & Cup",
        "description": "Green tea.",
        "brand": "Leaf",
        "category": ["Food", "Tea"],
        "price": 12.5,
        "available": None,
    }
    assert attributes == ({"color": "Green", "main_category": "Grocery"} if year == 2023 else {})
    assert (other["title"], other["price"], other["category"]) == ("", None, ["Food"])
    facts = {(row["head"], row["relation"], row["tail"]) for row in result.tables.facts.to_pylist()}
    also = {("p1", "ALSO_BOUGHT", "p2"), ("p1", "ALSO_VIEWED", "p2")} if year != 2023 else set()
    assert facts == also | {("p1", "BOUGHT_TOGETHER", "p2")}
    assert result.report.tables["facts"].dropped == (0 if year == 2023 else 1)
    assert result.report.tables["interactions"].duplicate == (1 if year == 2014 else 0)


def test_facts_outside_the_catalogue_can_be_kept(tmp_path: Path) -> None:
    metadata = write(tmp_path / "meta.json", METADATA[2018])
    kept = clean(read_amazon([], [metadata]), Policy({"facts": Outside.BARE})).tables.facts
    assert "gone" in kept["tail"].to_pylist()


def test_reviews_alone_make_bare_products(tmp_path: Path) -> None:
    result = clean(read_amazon([write(tmp_path / "reviews.json", REVIEWS[2018])]))
    assert result.tables.products["product_id"].to_pylist() == ["p1", "p2"]


def test_day_of_a_review_stands_in_for_its_missing_time(tmp_path: Path) -> None:
    row = {"reviewerID": "u", "asin": "p", "overall": 5, "reviewTime": "06 2, 2018"}
    result = clean(read_amazon([write(tmp_path / "reviews.json", [row])]))
    assert result.tables.interactions["at_ms"].to_pylist() == [1_527_897_600_000]


def test_files_the_wrong_way_round_are_one_clear_error(tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.json", REVIEWS[2018])
    metadata = write(tmp_path / "meta.json", METADATA[2018])
    with pytest.raises(DataError, match=r"meta\.json does not hold Amazon reviews") as raised:
        read_amazon([metadata], [reviews])
    assert "wrong way round" in raised.value.remedy
    with pytest.raises(DataError, match="no file is given"):
        read_amazon([])


@pytest.mark.parametrize(
    ("price", "number"),
    [
        ("$12.99", 12.99),
        ("$1,250.00", 1250.0),
        ("$5.00 - $9.99", 5.0),
        ("from 7.50", 7.5),
        (3, 3.0),
        ("", None),
        ("—", None),
        (None, None),
        (True, None),
        ("Currently unavailable", None),
    ],
)
def test_price_is_read_as_shops_write_it(price: Any, number: float | None) -> None:
    assert price_of(price) == number


def test_markup_is_taken_out_of_texts() -> None:
    assert plain_text('<div class="a">Tea &amp; <br/>cup</div>  <script>var a < 1;</script>') == "Tea & cup"
    assert plain_text("5 < 6 & 7 > 2") == "5 < 6 & 7 > 2"
    assert plain_text("cut off <a href=") == "cut off"
    assert plain_text(["one", None, " two "]) == "one two"
    assert title_text("var aPageStart = (new Date()).getTime();") == ""
    assert brand_name("by\n    Leaf") == "Leaf"
    assert category_path([["Food"], ["Food", "Tea", "Tea"]]) == ["Food", "Tea"]
    assert category_path("Tea") == ["Tea"]
    assert category_path(None) == []


def test_real_gift_cards_load() -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "amazon-gift-cards"
    if not folder.is_dir():
        pytest.skip("the Gift Cards data set is not here")
    raw = read_amazon([folder / "Gift_Cards_5.json.gz"], [folder / "meta_Gift_Cards.json.gz"])
    result = clean(raw)
    events = result.report.tables["interactions"]
    assert (events.read, events.kept, events.duplicate, events.refused) == (2972, 2969, 3, 0)
    assert len(result.tables.products) == 1547
    assert sorted(result.tables.facts["relation"].unique().to_pylist()) == ["ALSO_BOUGHT", "ALSO_VIEWED"]
    row = next(row for row in result.tables.products.to_pylist() if row["product_id"] == "B001H53QE4")
    assert row["price"] == 1250.0
    assert row["brand"] == "Amazon"
    assert "<" not in row["description"]
    assert row["category"] == ["Gift Cards"]


RATINGS = {
    2014: "A1UQBFCERIP7VJ,0205616461,4.0,1400000000\nA30TL5EWN6DFXT,B00005N7P0,1.0,1400000001\n",
    2018: "0205616461,A1UQBFCERIP7VJ,4.0,1400000000\nB00005N7P0,A30TL5EWN6DFXT,1.0,1400000001\n",
    2023: "user_id,parent_asin,rating,timestamp\nA1UQBFCERIP7VJ,0205616461,4.0,1400000000000\n"
    "A30TL5EWN6DFXT,B00005N7P0,1.0,1400000001000\n",
}


@pytest.mark.parametrize("year", RATINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_ratings_of_every_year_are_the_same_interactions(tmp_path: Path, year: int, packed: bool) -> None:
    file = tmp_path / ("ratings.csv.gz" if packed else "ratings.csv")
    file.write_bytes(gzip.compress(RATINGS[year].encode()) if packed else RATINGS[year].encode())
    interactions = clean(read_amazon([file])).tables.interactions
    assert interactions.select(["user_id", "product_id", "type", "at_ms", "value"]).to_pylist() == [
        {
            "user_id": "A1UQBFCERIP7VJ",
            "product_id": "0205616461",
            "type": "rate",
            "at_ms": 1400000000000,
            "value": 4.0,
        },
        {
            "user_id": "A30TL5EWN6DFXT",
            "product_id": "B00005N7P0",
            "type": "rate",
            "at_ms": 1400000001000,
            "value": 1.0,
        },
    ]


@pytest.mark.parametrize("seconds", [1400000000, 1400000000.0, "1400000000", "1400000000.0"])
def test_seconds_are_seconds_however_they_are_spelled(tmp_path: Path, seconds: object) -> None:
    reviews, ratings = tmp_path / "reviews.json", tmp_path / "ratings.csv"
    reviews.write_text(json.dumps({"reviewerID": "u1", "asin": "p1", "overall": 4.0, "unixReviewTime": seconds}))
    ratings.write_text(RATINGS[2014].replace("1400000000\n", f"{seconds}\n"))
    for file in (reviews, ratings):
        assert clean(read_amazon([file])).tables.interactions["at_ms"][0].as_py() == 1400000000000


def test_half_a_surrogate_in_a_list_is_no_product(tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({"asin": "p1", "also_buy": ["p2", "\ud800"], "also_view": ["\udfff"]}))
    facts = read_amazon([], [file]).tables["facts"].rows
    assert facts.select(["head", "relation", "tail"]).to_pylist() == [
        {"head": "p1", "relation": "ALSO_BOUGHT", "tail": "p2"}
    ]


def test_a_bad_rating_is_told_with_its_own_line_and_time(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(RATINGS[2014] + "A30TL5EWN6DFXT,B00005N7P0,1.0,soon\nA30TL5EWN6DFXT,B00005N7P0\n")
    result = clean(read_amazon([file]), Policy(max_bad=1.0))
    told = [(row["line"], row["value"]) for row in result.refused.to_pylist()]
    assert (3, "soon") in told
    assert any(line == 4 for line, _ in told)


def test_ratings_without_ids_of_amazon_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text("u1,p1,4.0,1400000000\n")
    with pytest.raises(DataError, match="which column has the products"):
        read_amazon([file])


@pytest.mark.parametrize(
    ("review", "item", "rules"),
    [
        ({"unixReviewTime": 10**400}, {}, {"type"}),
        ({"unixReviewTime": 1e308}, {}, {"type"}),
        ({"unixReviewTime": "9" * 400}, {}, {"type"}),
        ({"overall": 10**400}, {}, {"value_not_finite"}),
        ({}, {"price": 10**400}, {"price_out_of_range"}),
        ({}, {"price": "9" * 400}, {"price_out_of_range"}),
        ({}, {"price": float("nan")}, set()),
    ],
)
def test_a_number_of_any_length_is_refused_with_its_row(
    review: dict[str, Any], item: dict[str, Any], rules: set[str], tmp_path: Path
) -> None:
    one = {"reviewerID": "u1", "asin": "p1", "overall": 4.0, "unixReviewTime": 1400000000}
    reviews = write(tmp_path / "reviews.json", [one, one | {"reviewerID": "u2"} | review])
    metadata = write(tmp_path / "meta.json", [{"asin": "p1", "title": "Tea"}, {"asin": "p2"} | item])
    result = check(read_amazon([reviews], [metadata]), Policy())
    assert set(result.refused["rule"].to_pylist()) == rules
    assert len(result.tables.interactions) + len(result.tables.products) == 4 - len(rules)


def test_a_list_of_others_does_not_copy_its_products_texts(tmp_path: Path) -> None:
    # A description for each fact would be more than one array holds.
    related = [f"q{number}" for number in range(2_000)]
    items = [{"asin": f"p{number}", "description": "d" * 40_000, "also_buy": related} for number in range(30)]
    facts = read_amazon([], [write(tmp_path / "meta.json", items)]).tables["facts"].rows
    assert len(facts) == 30 * 2_000
    assert facts["head"][-1].as_py() == "p29"
