"""Small canonical tables by hand, for tests of the graph."""

from typing import Any

import pyarrow as pa

from kg.tables import SCHEMAS, Tables


def tables(**rows: list[dict[str, Any]]) -> Tables:
    """Return canonical tables from rows; columns that a row leaves out get a neutral value."""
    neutral: dict[str, dict[str, Any]] = {
        "interactions": {"type": "purchase", "at_ms": 0, "value": None, "position": 0},
        "products": {
            "title": "",
            "description": "",
            "brand": "",
            "category": [],
            "price": None,
            "available": None,
            "attributes": [],
        },
        "facts": {"head_kind": "product", "tail_kind": "product"},
        "users": {"attributes": []},
    }
    return Tables(
        **{
            name: pa.Table.from_pylist([neutral[name] | row for row in given], schema=SCHEMAS[name])
            for name, given in rows.items()
        }
    )


def event(event_id: str, user_id: str, product_id: str, **columns: Any) -> dict[str, Any]:
    """Return a row of interactions."""
    return {"event_id": event_id, "user_id": user_id, "product_id": product_id, **columns}


def same_rows(one: Tables, other: Tables) -> bool:
    """Return whether two sets of tables have the same rows, in whatever order."""
    return all(_sorted(getattr(one, name)) == _sorted(getattr(other, name)) for name in SCHEMAS)


def _sorted(table: pa.Table) -> list[str]:
    return sorted(repr(row) for row in table.to_pylist())


SMALL = tables(
    products=[
        {
            "product_id": "beans",
            "title": "Espresso beans",
            "brand": "Northwind",
            "category": ["Coffee", "Beans"],
            "price": 11.9,
            "attributes": [("roast", "dark"), ("weight", "1 kg")],
        },
        {"product_id": "cup", "title": "Cup", "description": "of clay", "category": ["Coffee", "Cups"]},
        {"product_id": "tea", "brand": "Northwind", "category": ["Tea"], "price": 4.0, "available": False},
    ],
    users=[{"user_id": "ann", "attributes": [("age", "35-54")]}, {"user_id": "silent"}],
    interactions=[
        event("e1", "ann", "beans", at_ms=1_000, value=2.0, position=0),
        event("e2", "ann", "cup", type="view", at_ms=2_000, position=1),
        event("e3", "bob", "beans", type="rate", at_ms=2_000, value=4.5, position=2),
        event("e4", "bob", "beans", at_ms=3_000, value=1.0, position=3),
    ],
    facts=[
        {"head": "beans", "relation": "BOUGHT_TOGETHER", "tail": "cup"},
        {"head": "beans", "relation": "ALSO_BOUGHT", "tail": "gone"},
        {"head": "cup", "relation": "HAS_BRAND", "tail": "Clayworks", "tail_kind": "brand"},
        {"head": "Northwind", "relation": "MADE_IN", "tail": "italy", "head_kind": "brand", "tail_kind": "country"},
        {"head": "ann", "relation": "KNOWS", "tail": "carl", "head_kind": "user", "tail_kind": "user"},
        {"head": "roast=dark", "relation": "MEANS", "tail": "bitter", "head_kind": "attribute", "tail_kind": "taste"},
    ],
)
