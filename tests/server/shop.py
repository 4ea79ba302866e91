"""A small shop with a real snapshot and real, shortly trained artifacts, laid out in a home folder as `kgrank` does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from kg.extending import CatalogueChange
from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.tables import FACTS, INTERACTIONS, PRODUCTS, Tables
from model.artifact import load_artifact, save_artifact
from model.config import ModelConfig, TextConfig, TrainConfig
from model.product_graph import product_graph
from model.splits import SplitConfig, make_split
from model.text import encode_cached
from model.train import train
from server.search.reader import compiled_encoder
from server.user_graph import with_compiled_users

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
USER_COUNT = 40
PRODUCT_COUNT = 90
BRANDS = ("Acme", "Bolt", "Cora")
NO_CHANGE = CatalogueChange(PRODUCTS.empty_table(), FACTS.empty_table())


@dataclass(frozen=True)
class Shop:
    """Where the shop is: its home folder, the snapshot in it, and its models' versions, oldest first."""

    home: Path
    snapshot: Snapshot
    versions: list[str]


def make_shop(home: Path) -> Shop:
    """Make the shop; `user-NN` has six interactions or more, `newcomer` has two, `product-NN` are the products."""
    snapshot = freeze(tables())
    name = snapshot.content_hash[:12]
    snapshot.save(home / "snapshots" / name)
    (home / "snapshots" / "LATEST").write_text(name)
    compiled_encoder(TextConfig(), home / "cache")
    # Two seeds, two models of the same catalogue.
    versions = [train_shortly(home / "artifacts", snapshot, seed) for seed in (1, 2)]
    with_compiled_users(load_artifact(home / "artifacts" / versions[0]).scorer, home / "cache")
    return Shop(home, snapshot, versions)


def tables(product_count: int = PRODUCT_COUNT, prefix: str = "product") -> Tables:
    """Return the shop's tables: each brand has its own followers, so that there is something to learn."""
    generator = np.random.default_rng(5)
    products = [f"{prefix}-{number:02}" for number in range(product_count)]
    rows = []
    for user in range(USER_COUNT):
        favourite = np.arange(user % len(BRANDS), product_count, len(BRANDS))
        bought = generator.choice(favourite, 6 + user % 5, replace=False)
        rows += [(f"user-{user:02}", products[index], hour) for hour, index in enumerate(bought)]
    rows += [("newcomer", products[0], 50), ("newcomer", products[3], 51)]
    interactions = pa.table(
        {
            "user_id": [user for user, _, _ in rows],
            "product_id": [product for _, product, _ in rows],
            "type": ["purchase"] * len(rows),
            "at_ms": [START_MS + hour * HOUR_MS for _, _, hour in rows],
            "value": pa.array([1.0] * len(rows), pa.float32()),
            "position": list(range(len(rows))),
            "event_id": [f"file-{position}" for position in range(len(rows))],
        },
        schema=INTERACTIONS,
    )
    catalogue = pa.table(
        {
            "product_id": products,
            "title": [f"Thing {number}" for number in range(product_count)],
            "description": ["a thing"] * product_count,
            "brand": [BRANDS[number % len(BRANDS)] for number in range(product_count)],
            "category": [["Things", f"Kind {number % 7}"] for number in range(product_count)],
            "price": [float(number) for number in range(product_count)],
            "available": [None if number % 5 else number % 10 == 0 for number in range(product_count)],
            "attributes": [[("colour", "red" if number % 2 else "blue")] for number in range(product_count)],
        },
        schema=PRODUCTS,
    )
    return Tables(interactions=interactions, products=catalogue)


def train_shortly(artifacts: Path, snapshot: Snapshot, seed: int) -> str:
    """Train a small network for one epoch and save it; return its version."""
    split = make_split(snapshot, SplitConfig())
    config = ModelConfig(
        text=TextConfig(), dimension=16, layers=1, text_kernel_dimension=8, history_length=10, repeat=True
    )
    graph = product_graph(snapshot, split.train, config)
    text = encode_cached(graph.texts, config.text, artifacts.parent / "cache")
    settings = TrainConfig(objective="next_basket", window_days=0.25, epochs=1, batch_users=16, seed=seed, device="cpu")
    trained = train(snapshot, split, text, graph, config, settings)
    return save_artifact(artifacts, snapshot, split, trained, settings).name
