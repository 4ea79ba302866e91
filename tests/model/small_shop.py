"""A small shop whose answers are known: two tastes that never mix, each with its own products and words."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from kg.freeze import freeze
from kg.latest import note_latest
from kg.snapshot import Snapshot
from kg.tables import FACTS, INTERACTIONS, PRODUCTS, Tables
from model.config import ModelConfig, TrainConfig

DAY_MS = 86_400_000
HALF = 10
MODEL = ModelConfig(dimension=16, heads=2, layers=1, history_length=8, text_kernel_dimension=8, dropout=0.1)
TRAIN = TrainConfig(epochs=6, patience=6, batch_users=16, learning_rate=1e-2, seed=3)


def small_shop(extra_products: int = 0) -> Snapshot:
    """Return 40 users, of whom the even ones like teas and the odd ones drills; extra products are unseen teas."""
    generator = np.random.default_rng(5)
    names = [f"tea-{row:02}" for row in range(HALF)] + [f"drill-{row:02}" for row in range(HALF)]
    names += [f"tea-new-{row}" for row in range(extra_products)]
    rows = []
    for user in range(40):
        liked = names[:HALF] if user % 2 == 0 else names[HALF : 2 * HALF]
        for step, product in enumerate(generator.permutation(liked)[:7]):
            rows.append((f"user-{user:02}", product, "purchase", (step * 3 + 1) * DAY_MS + user, None, step))
    interactions = [dict(zip(INTERACTIONS.names, (*row, f"{row[0]}-{row[5]}"), strict=True)) for row in rows]
    products = [
        {
            "product_id": name,
            "title": "green tea leaves" if name.startswith("tea") else "cordless power drill",
            "description": "",
            "brand": "Leaf" if name.startswith("tea") else "Bolt",
            "category": ["drinks" if name.startswith("tea") else "tools"],
            "price": None,
            "attributes": [],
        }
        for name in names
    ]
    facts = [("tea-00", "BOUGHT_TOGETHER", "tea-01", "product", "product")]
    return freeze(
        Tables(
            interactions=pa.Table.from_pylist(interactions, INTERACTIONS),
            products=pa.Table.from_pylist(products, PRODUCTS),
            facts=pa.Table.from_pylist([dict(zip(FACTS.names, fact, strict=True)) for fact in facts], FACTS),
        )
    )


def saved_shop(home: Path) -> None:
    """Save the shop as the newest snapshot of a home, `small`, as `kgrank snapshot --name small` would."""
    small_shop().save(home / "snapshots" / "small")
    note_latest(home / "snapshots", "small")
