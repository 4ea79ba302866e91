"""Amazon reviews and product metadata, one JSON object a line, in the layouts of 2014, 2018 and 2023.

McAuley et al., SIGIR 2015 (2014); Ni et al., EMNLP 2019 (2018); Hou et al., 2024 (2023). A review becomes an
interaction of type `review`, or `rate` if it has no text, whose value is the stars; a product's lists of others become
the facts ALSO_BOUGHT, ALSO_VIEWED, BOUGHT_TOGETHER and BOUGHT_AFTER_VIEWING. Every line is read by the names it has,
so that files of different years can be loaded together.
"""

import ast
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import TimeUnit, is_encodable
from kg.errors import DataError
from kg.sources.amazon_ratings import is_ratings, read_ratings
from kg.sources.amazon_text import brand_name, category_path, plain_text, price_of, title_text
from kg.sources.json_lines import read_json_lines
from kg.sources.raw import ORIGIN, REFUSALS, Raw, RawTable, stacked

_RELATIONS = {
    "ALSO_BOUGHT": ("also_bought", "also_buy"),
    "ALSO_VIEWED": ("also_viewed", "also_view"),
    "BOUGHT_TOGETHER": ("bought_together",),
    "BOUGHT_AFTER_VIEWING": ("buy_after_viewing",),
}
_DETAILS = ("Color", "Size", "Material", "Scent", "Flavor", "Item Form", "Skin Type", "Hair Type", "Style", "Pattern")
"""Keys of a 2023 product's `details` that many products share; the others (dimensions, dates, UPCs) tell them apart."""
_NO_SECONDS = 10**15
"""From here on a number is no time in seconds, and stays for the quality check to find."""


def read_amazon(reviews: Sequence[Path], metadata: Sequence[Path] = ()) -> Raw:
    """Read files of reviews (or of ratings only, `.csv`) and of metadata, gzipped or not.

    Raises:
        DataError: no file is given, one can't be read, or isn't what it is given as.
    """
    if not reviews and not metadata:
        raise DataError("no file is given", "Give a file of reviews, --metadata FILE, or both.")
    tables: dict[str, RawTable] = {}
    refused = [REFUSALS.empty_table()]
    notes: list[str] = []
    if reviews:
        rows = []
        for path in reviews:
            if is_ratings(path):
                found = read_ratings(path)
            else:
                found = read_json_lines(path, "interactions", row_of=_interaction)
                _require_ids(found.rows, "user_id", path, "reviews (no line has reviewerID or user_id)")
            rows.append(found.rows)
            refused.append(found.refused)
            notes += found.notes
        tables["interactions"] = RawTable(stacked(rows), TimeUnit.MILLISECONDS, repeats_are_events=False)
    if metadata:
        products = []
        for path in metadata:
            found = read_json_lines(path, "products", row_of=_product, parse=_loose_json)
            _require_ids(found.rows, "product_id", path, "product metadata (no line has asin or parent_asin)")
            products.append(found.rows)
            refused.append(found.refused)
        rows_of_products = stacked(products)
        tables["products"] = RawTable(rows_of_products.drop_columns(list(_RELATIONS)))
        tables["facts"] = RawTable(stacked([_facts(rows_of_products, name) for name in _RELATIONS]))
    return Raw("amazon", tables, pa.concat_tables(refused), notes=tuple(notes))


def _interaction(review: dict[str, Any]) -> dict[str, Any]:
    text = review.get("reviewText") or review.get("text")
    return {
        "user_id": review.get("reviewerID") or review.get("user_id"),
        "product_id": review.get("parent_asin") or review.get("asin"),
        "type": "review" if isinstance(text, str) and text.strip() else "rate",
        "value": review.get("overall", review.get("rating")),
        "at_ms": _time_ms(review),
    }


def _time_ms(review: dict[str, Any]) -> Any:
    """Return the time of a review: seconds until 2018, a day's date where they are missing, milliseconds in 2023."""
    seconds = review.get("unixReviewTime")
    if seconds is None and "reviewTime" in review:
        try:
            day = datetime.strptime(str(review["reviewTime"]), "%m %d, %Y").replace(tzinfo=UTC)
        except ValueError:
            return str(review["reviewTime"])
        return int(day.timestamp() * 1000)
    if seconds is None:
        return review.get("timestamp", review.get("sort_timestamp"))
    if isinstance(seconds, str):
        with suppress(ValueError):  # what is no number stays, for the quality check to find
            seconds = float(seconds)
    return int(seconds * 1000) if isinstance(seconds, int | float) and abs(seconds) < _NO_SECONDS else seconds


def _product(item: dict[str, Any]) -> dict[str, Any]:
    details = item["details"] if isinstance(item.get("details"), dict) else {}
    related = item["related"] if isinstance(item.get("related"), dict) else {}
    product_id = item.get("parent_asin") or item.get("asin")
    attributes = {key.lower().replace(" ", "_"): plain_text(details.get(key)) for key in _DETAILS}
    attributes["main_category"] = plain_text(item.get("main_category") or item.get("main_cat"))
    return {
        "product_id": product_id,
        "title": title_text(item.get("title")),
        "description": plain_text(item.get("description")),
        "brand": brand_name(item.get("brand") or item.get("store")),
        "category": category_path(item.get("categories") or item.get("category")),
        "price": price_of(item.get("price")),
        "attributes": json.dumps({key: value for key, value in sorted(attributes.items()) if value}),
    } | {
        relation: _ids([related.get(name) or item.get(name) for name in names], product_id)
        for relation, names in _RELATIONS.items()
    }


def _ids(lists: list[Any], product_id: Any) -> list[str]:
    found = [value for values in lists if isinstance(values, list) for value in values]
    return [value for value in dict.fromkeys(filter(is_encodable, found)) if value and value != product_id]


def _loose_json(line: str) -> Any:
    """Read a line that is JSON or, as in the 2014 metadata, the text of a Python dictionary."""
    try:
        return json.loads(line)
    except ValueError:
        try:
            return ast.literal_eval(line.strip())
        except (SyntaxError, TypeError, MemoryError) as error:
            raise ValueError("neither JSON nor a Python literal") from error


def _facts(products: pa.Table, relation: str) -> pa.Table:
    lists = products[relation].combine_chunks().cast(pa.list_(pa.string()))
    # Each product's row as often as it has others in its list: nothing else of it, texts and all, would fit.
    rows = products.select(["product_id", *ORIGIN]).take(pc.list_parent_indices(lists))
    return pa.table(
        {
            "head": rows["product_id"],
            "relation": pa.repeat(pa.scalar(relation), len(rows)),
            "tail": pc.list_flatten(lists),
        }
        | {name: rows[name] for name in ORIGIN}
    )


def _require_ids(rows: pa.Table, column: str, path: Path, what: str) -> None:
    if column not in rows.column_names or rows[column].null_count == len(rows):
        raise DataError(
            f"{path} does not hold Amazon {what}", "Check that reviews and --metadata are not the wrong way round."
        )
