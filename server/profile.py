"""What a user's interactions say: brands, categories, interests, price level. From memory alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.snapshot import Histories, Snapshot
from kg.tables import CATEGORY_SEPARATOR

HALF_LIFE_MS = 60 * 24 * 3_600_000
"""An interaction this much older than the last one counts half."""

_TOLD_ALREADY = ("brand", "category", "product", "user")

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leaning:
    """A leaning towards a node: its share of the interactions, recent ones counting more, and how many they are."""

    kind: str
    id: str
    name: str
    weight: float
    count: int


@dataclass(frozen=True, slots=True)
class Prices:
    """Quartiles of the prices of interactions, and the share of what the catalogue has that is below the median."""

    lower: float
    median: float
    upper: float
    percentile: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile; `types` counts interactions by code, `first_ms` and `last_ms` are None where there are none."""

    count: int
    first_ms: int | None
    last_ms: int | None
    types: dict[int, int]
    brands: list[Leaning]
    categories: list[Leaning]
    interests: list[Leaning]
    prices: Prices | None


def profile(snapshot: Snapshot, history: Histories, window: tuple[int, int] | None, limit: int) -> Profile:
    """Return what a history says.

    Args:
        snapshot: the catalogue and its facts.
        history: all interactions of the user, a batch of one.
        window: leave out what happened before its first moment or after its last, ms since the epoch.
        limit: how many leanings of each sort, those of most weight.
    """
    kept = history
    if window is not None:
        first_ms, last_ms = window
        kept = history.where((history.at_ms >= first_ms) & (history.at_ms <= last_ms))
    if not len(kept.product_index):
        return Profile(0, None, None, {}, [], [], [], None)
    first_ms, last_ms = int(kept.at_ms.min()), int(kept.at_ms.max())
    weight = np.exp2((kept.at_ms - last_ms) / HALF_LIFE_MS)
    codes, counts = np.unique(kept.type, return_counts=True)
    products = kept.product_index.tolist()
    brands = snapshot.catalogue["brand"].take(products).to_pylist()
    categories = snapshot.catalogue["category"].take(products).to_pylist()
    return Profile(
        count=len(products),
        first_ms=first_ms,
        last_ms=last_ms,
        types=dict(zip(codes.tolist(), counts.tolist(), strict=True)),
        brands=_leanings((([("brand", brand, brand)] if brand else []) for brand in brands), weight, limit),
        categories=_leanings(
            (([("category", CATEGORY_SEPARATOR.join(path), path[-1])] if path else []) for path in categories),
            weight,
            limit,
        ),
        interests=_leanings(_entities(snapshot, products), weight, limit),
        prices=_prices(snapshot, kept),
    )


Named = tuple[str, str, str]


def _leanings(of_rows: Iterable[Iterable[Named]], weight: Float64s, limit: int) -> list[Leaning]:
    """Return the nodes of most weight; `of_rows` gives, for each interaction, the nodes that it stands for."""
    weights: dict[Named, float] = {}
    counts: dict[Named, int] = {}
    for nodes, each in zip(of_rows, weight.tolist(), strict=True):
        for node in nodes:
            weights[node] = weights.get(node, 0.0) + each
            counts[node] = counts.get(node, 0) + 1
    whole = float(weight.sum())
    best = sorted(weights, key=lambda node: (-weights[node], node))[:limit]
    return [Leaning(*node, min(1.0, weights[node] / whole), counts[node]) for node in best]


def _entities(snapshot: Snapshot, products: list[int]) -> Iterator[list[Named]]:
    """Yield, for each product, the attributes and entities that its facts lead to."""
    of_product = {product: sorted(set(_tails(snapshot, product))) for product in set(products)}
    nodes = sorted({node for found in of_product.values() for node in found})
    rows = snapshot.nodes.take(pa.array([node - len(snapshot.products) for node in nodes], pa.int64())).to_pylist()
    named = {node: (row["kind"], row["id"], row["name"]) for node, row in zip(nodes, rows, strict=True)}
    for product in products:
        yield [named[node] for node in of_product[product] if named[node][0] not in _TOLD_ALREADY]


def _tails(snapshot: Snapshot, product: int) -> Iterator[int]:
    for edges in snapshot.facts.values():
        start, stop = np.searchsorted(edges.head, (product, product + 1))
        yield from (node for node in edges.tail[start:stop].tolist() if node >= len(snapshot.products))


def _prices(snapshot: Snapshot, history: Histories) -> Prices | None:
    catalogue = snapshot.catalogue["price"].to_numpy()
    prices = catalogue[history.product_index]
    prices = prices[np.isfinite(prices)]
    if not len(prices):
        return None
    lower, median, upper = np.percentile(prices, (25, 50, 75))
    offered = np.delete(catalogue, snapshot.products.taken_out)
    priced = offered[np.isfinite(offered)]
    cheaper = ((priced < median).sum() + (priced <= median).sum()) / 2 / max(1, len(priced))
    return Prices(float(lower), float(median), float(upper), float(cheaper))
