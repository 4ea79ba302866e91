"""A shop of any size with a realistic shape, for measuring the server: who buys what follows a power law, products
stand in groups, texts have few strong directions and many weak ones."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kg.snapshot import Edges, Histories, Snapshot
from kg.tables import ATTRIBUTES
from kg.vocabulary import Vocabulary
from model.artifact import save_artifact
from model.config import DEFAULT_ENCODER, ModelConfig, TextConfig, TrainConfig
from model.graph import TRANSITION, symmetric_relation
from model.network import RankingNetwork
from model.popularity import product_statistics
from model.product_graph import ProductGraph
from model.scorer import Blend, TextKernel, TrainedModel
from model.splits import Split, SplitConfig
from model.text import cache_file, encoder_folder, text_key, write_cache
from model.train import Trained

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
BRANDS, CATEGORIES = 2000, 400
_SEED = 1
TEXT_WIDTH = 384
"""That of the built-in encoder, which reads queries and new products."""


def make_home(home: Path, *, users: int, products: int, interactions: int, graph: int, text: int) -> None:
    """Write a snapshot and an artifact below `home`, as `kgrank snapshot` and `kgrank train` would.

    Args:
        home: a new folder.
        users: number of users.
        products: number of products.
        interactions: number of interactions; users have them by a log-normal law, products by a power law.
        graph: width of the graph component.
        text: width of the text component.
    """
    generator = np.random.default_rng(_SEED)
    category = generator.integers(CATEGORIES, size=products)
    brand = (generator.pareto(1.0, products) * 20).astype(np.int64) % BRANDS
    snapshot = Snapshot(
        users=Vocabulary([f"user-{number:07}" for number in range(users)]),
        products=Vocabulary([f"product-{number:07}" for number in range(products)]),
        catalogue=_catalogue(products, brand, category),
        nodes=_nodes(),
        histories=_histories(generator, users, category, interactions),
        facts={
            "HAS_BRAND": _edges(np.arange(products), products + brand),
            "IN_CATEGORY": _edges(np.arange(products), products + BRANDS + category),
        },
        as_of_ms=START_MS + 400 * 24 * HOUR_MS,
        content_hash=f"synthetic-{users}-{products}-{interactions}",
    )
    snapshot.save(home / "snapshots" / "synthetic")
    (home / "snapshots" / "LATEST").write_text("synthetic")
    _artifact(home / "artifacts", snapshot, generator, category, brand, graph, text)


def fill_text_cache(home: Path) -> None:
    """Keep drawn features for every text of the shop: reading 100,000 of them takes minutes, and says nothing here."""
    generator = np.random.default_rng(_SEED)
    snapshot = Snapshot.open(home / "snapshots" / "synthetic")
    texts = {*snapshot.catalogue["text"].to_pylist(), *snapshot.nodes["name"].to_pylist()}
    keys = np.sort(np.array([text_key(text).encode() for text in texts]))
    features = generator.standard_normal((len(keys), TEXT_WIDTH), np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    write_cache(cache_file(TextConfig(), home / "cache"), keys, features.astype(np.float16))


def _artifact(
    folder: Path,
    snapshot: Snapshot,
    generator: np.random.Generator,
    category: npt.NDArray[np.int64],
    brand: npt.NDArray[np.int64],
    graph: int,
    text: int,
) -> None:
    """Save a network that was not trained, over product vectors with the structure that training gives."""
    config = ModelConfig(dimension=graph, layers=2, text_kernel_dimension=text, repeat=True)
    keys = Vocabulary([f"product\t{each}" for each in snapshot.products.array.to_pylist()])
    nothing = np.empty(0, np.int64)
    relation = symmetric_relation(nothing, nothing, len(keys))
    torch.manual_seed(7)
    network = RankingNetwork(config, TEXT_WIDTH, len(keys), ["HAS_BRAND", "IN_CATEGORY", TRANSITION])
    statistics = product_statistics(snapshot.histories, snapshot.as_of_ms, 28, len(keys))
    kernel = TextKernel(torch.zeros(TEXT_WIDTH), torch.eye(TEXT_WIDTH)[:, :text].contiguous())
    model = TrainedModel(
        (network,),
        _vectors(generator, category, brand, graph, decay=0.3),
        _vectors(generator, category, brand, text, decay=0.7),
        statistics,
        Blend(graph=1.0, text=1.5, history=1.0, popularity=0.3),
    )
    product_graph = ProductGraph(len(keys), keys, [""] * len(keys), {"HAS_BRAND": relation}, nothing)
    trained = Trained(model, kernel, product_graph, [], 0, 0.0)
    save_artifact(folder, snapshot, Split(SplitConfig(), *[None] * 3), trained, TrainConfig())  # type: ignore[arg-type]  # only the configuration is stored


def _vectors(
    generator: np.random.Generator,
    category: npt.NDArray[np.int64],
    brand: npt.NDArray[np.int64],
    width: int,
    decay: float,
) -> torch.Tensor:
    """Return unit vectors `[P, width]`: a centre for category and brand and as much of one's own, falling spectrum."""
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -decay
    noise = generator.standard_normal((len(category), width), np.float32)
    centre = generator.standard_normal((CATEGORIES, width), np.float32)[category]
    centre += 0.7 * generator.standard_normal((BRANDS, width), np.float32)[brand]
    made = (noise + centre) * spectrum
    return torch.from_numpy(made / np.linalg.norm(made, axis=1, keepdims=True))


def _histories(
    generator: np.random.Generator, users: int, category: npt.NDArray[np.int64], interactions: int
) -> Histories:
    """Return histories in which a user stays with a few categories, and popular products are had most."""
    products = len(category)
    activity = generator.lognormal(0, 1.1, users)
    counts = np.maximum(1, generator.multinomial(interactions - users, activity / activity.sum()) + 1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    user = np.repeat(np.arange(users), counts)
    order = np.argsort(category, kind="stable")
    start = np.searchsorted(category[order], np.arange(CATEGORIES + 1))
    favourites = generator.integers(CATEGORIES, size=(users, 4))
    wanted = favourites[user, generator.integers(4, size=len(user))]
    size = np.maximum(start[wanted + 1] - start[wanted], 1)
    # A power law within the category: rank falls as u^3.
    rank = (size * generator.random(len(user)) ** 3).astype(np.int64)
    product = order[np.minimum(start[wanted] + rank, products - 1)]
    at_ms = START_MS + (generator.random(len(user)) * 400 * 24 * HOUR_MS).astype(np.int64)
    by_time = np.lexsort((at_ms, user))
    return Histories(
        offsets,
        product.astype(np.int32)[by_time],
        generator.choice(np.array([0, 1, 4], np.int8), len(user)),
        at_ms[by_time],
        np.full(len(user), np.nan, np.float32),
    )


def product_titles(count: int) -> list[str]:
    """Return titles of English words, those of the text encoder's vocabulary, that follow Zipf's law."""
    tokenizer = json.loads((Path(encoder_folder(DEFAULT_ENCODER)) / "tokenizer.json").read_text(encoding="utf-8"))
    words = np.array([word for word in tokenizer["model"]["vocab"] if word.isalpha() and word.isascii() and word[2:]])
    generator = np.random.default_rng(2)
    generator.shuffle(words)
    frequency = 1 / np.arange(1, len(words) + 1)
    ends = np.cumsum(generator.integers(4, 15, count))
    chosen = words[generator.choice(len(words), int(ends[-1]), p=frequency / frequency.sum())]
    return [" ".join(each) for each in np.split(chosen, ends[:-1])]


def _catalogue(products: int, brand: npt.NDArray[np.int64], category: npt.NDArray[np.int64]) -> pa.Table:
    titles = product_titles(products)
    return pa.table(
        {
            "title": titles,
            "brand": [f"Brand {number}" for number in brand.tolist()],
            "category": [["All", f"Category {number}"] for number in category.tolist()],
            "price": pa.array(np.random.default_rng(3).lognormal(2.5, 0.8, products).round(2)),
            "available": pa.array([True] * products),
            "attributes": pa.array([[]] * products, ATTRIBUTES),
            "text": titles,
        }
    )


def _nodes() -> pa.Table:
    brands = [f"Brand {number}" for number in range(BRANDS)]
    categories = [f"All > Category {number}" for number in range(CATEGORIES)]
    return pa.table(
        {
            "kind": ["brand"] * BRANDS + ["category"] * CATEGORIES,
            "id": brands + categories,
            "name": brands + [each.removeprefix("All > ") for each in categories],
        }
    )


def _edges(head: npt.NDArray[np.int64], tail: npt.NDArray[np.int64]) -> Edges:
    return Edges(head.astype(np.int32), tail.astype(np.int32))
