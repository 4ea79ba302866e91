"""The canonical tables: what every source yields, the graph holds, and a snapshot is built from.

| table | column | type | meaning |
|---|---|---|---|
| interactions | `user_id`, `product_id` | string | outside ids, 1 to 256 bytes of UTF-8 |
| | `type` | string | one of `InteractionType` |
| | `at_ms` | int64 | milliseconds since the epoch, UTC |
| | `value` | float32, may be null | rating, quantity, dwell time: whatever the type measures; no ranker reads it |
| | `position` | int64 | orders interactions of equal time; the row number unless the source has better |
| | `event_id` | string | unique; derived from the row's content unless the source has one |
| products | `product_id`, `title`, `description`, `brand` | string | all but the id may be empty |
| | `category` | list of string | path from the root to the leaf, may be empty |
| | `price` | float64, may be null | in the shop's currency |
| | `available` | bool, may be null | whether it can be had now; null is taken as true |
| | `attributes` | map string to string | further key-value pairs |
| facts | `head`, `relation`, `tail` | string | relation is `[A-Z][A-Z0-9_]*` |
| | `head_kind`, `tail_kind` | string | `product` where the id is in the catalogue's space, else any lower-case kind |
| users | `user_id`, `attributes` | string, map | |
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa


class InteractionType(StrEnum):
    """What a user did with a product; the order gives the codes that snapshots store (`CODES`)."""

    VIEW = "view"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    WISHLIST = "wishlist"
    PURCHASE = "purchase"
    RATE = "rate"
    REVIEW = "review"


CODES: dict[InteractionType, int] = {kind: code for code, kind in enumerate(InteractionType)}
"""The int8 code of each interaction type in a snapshot. Append only: stored snapshots and artifacts use these."""

MAX_ID_BYTES = 256
MAX_VALUE_BYTES = 1024
"""Of an attribute's value; its key is at most as long as an id. Neo4j can't index a text of more than 8 kB."""
MAX_LEVELS = 16
"""Of a category path."""
MAX_PATH_BYTES = 2048
"""Of a category path with its separators."""

CATEGORY_SEPARATOR = " > "
"""Joins a category path to the id of its node; the quality check takes it out of a category's own name."""

ATTRIBUTES = pa.map_(pa.string(), pa.string())

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("at_ms", pa.int64(), nullable=False),
        pa.field("value", pa.float32()),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
    ]
)
PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("brand", pa.string(), nullable=False),
        pa.field("category", pa.list_(pa.string()), nullable=False),
        pa.field("price", pa.float64()),
        pa.field("available", pa.bool_()),
        pa.field("attributes", ATTRIBUTES, nullable=False),
    ]
)
FACTS = pa.schema(
    [
        pa.field("head", pa.string(), nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        pa.field("tail", pa.string(), nullable=False),
        pa.field("head_kind", pa.string(), nullable=False),
        pa.field("tail_kind", pa.string(), nullable=False),
    ]
)
USERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("attributes", ATTRIBUTES, nullable=False),
    ]
)
SCHEMAS: dict[str, pa.Schema] = {
    "interactions": INTERACTIONS,
    "products": PRODUCTS,
    "facts": FACTS,
    "users": USERS,
}


@dataclass(frozen=True)
class Tables:
    """The four canonical tables of one data set; a table that a source does not have is empty.

    Args:
        interactions: `INTERACTIONS`.
        products: `PRODUCTS`.
        facts: `FACTS`.
        users: `USERS`.
        stated: by table, the columns whose empty cells say that the value is empty; those of others say nothing, and a
            load keeps what a known product or user has. A table that is not named states all of its columns. Of
            interactions, those that any file has: without `event_id`, each id is made of its row's content.

    Raises:
        TypeError: a table does not have its canonical schema (a defect of ours: sources cast, quality checks).
    """

    interactions: pa.Table = field(default_factory=INTERACTIONS.empty_table)
    products: pa.Table = field(default_factory=PRODUCTS.empty_table)
    facts: pa.Table = field(default_factory=FACTS.empty_table)
    users: pa.Table = field(default_factory=USERS.empty_table)
    stated: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, table in self:
            if not table.schema.equals(SCHEMAS[name]):
                raise TypeError(f"table {name} has schema\n{table.schema}\nnot\n{SCHEMAS[name]}")

    def __iter__(self) -> Iterator[tuple[str, pa.Table]]:
        return iter([(name, getattr(self, name)) for name in SCHEMAS])

    def stated_of(self, name: str) -> Collection[str]:
        """Return the columns of a table whose empty cells say that the value is empty."""
        return self.stated.get(name, SCHEMAS[name].names)


def said(row: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """Return a row without the empty cells that say nothing, those of columns that are not `stated`."""
    return {name: value for name, value in row.items() if name in stated or value not in (None, "", [])}
