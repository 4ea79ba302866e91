"""A shop whose words only its histories explain, of the words that the tiny encoder knows."""

import numpy as np
import pyarrow as pa

from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.tables import FACTS, INTERACTIONS, PRODUCTS, Tables
from tests.model.small_shop import DAY_MS
from tests.model.tiny_encoder import WORDS


def riddle_shop(new: tuple[str, ...] = ()) -> Snapshot:
    """Return a shop of one-word products, bought in two tastes that the words don't tell, and some that nobody had."""
    tastes = WORDS[:5], WORDS[5:10]
    generator = np.random.default_rng(2)
    rows = []
    for user in range(24):
        for step, product in enumerate(generator.permutation(tastes[user % 2])):
            rows.append(
                (f"user-{user:02}", product, "purchase", (step + 1) * DAY_MS + user, None, step, f"{user}-{step}")
            )
    products = [
        {"product_id": word, "title": word, "description": "", "brand": "", "category": [], "price": None}
        | {"attributes": []}
        for word in (*WORDS[:10], *new)
    ]
    facts = [("green", "BOUGHT_TOGETHER", "bolt", "product", "product"), ("tea", "MADE_BY", "leaf-co", "product", "x")]
    facts += [("drinks", "MADE_BY", "leaf-co", "product", "x")]
    return freeze(
        Tables(
            interactions=pa.Table.from_pylist(
                [dict(zip(INTERACTIONS.names, row, strict=True)) for row in rows], INTERACTIONS
            ),
            products=pa.Table.from_pylist(products, PRODUCTS),
            facts=pa.Table.from_pylist([dict(zip(FACTS.names, fact, strict=True)) for fact in facts], FACTS),
        )
    )
