"""The text encoder made smaller, and what that costs: bf16, int8, and fewer layers, against float32.

Each form reads the same titles of Amazon's Beauty. Loss is measured where it would be felt:

    cosine       of a text's features to those of float32, mean
    neighbours   share of the ten products nearest to a product that stay
    search       MRR@10 of finding a product, by meaning alone, by three words of its title
    as asked     the same with only the query read by this form, and the products by float32
    next         NDCG@10 of ranking what a user went on to by the likeness of texts to the user's last three products

`int8, compiled` is what the server reads queries with (`server.search.reader`), here for products, too; the others are
torch's.

Speed is texts per second in batches, and milliseconds for one query. Prints one JSON line, and a table on stderr.

    python benchmarks/encoder_forms.py --products 4000
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
import structlog
import torch

from kg.snapshot import Snapshot
from model.compare.data import DataConfig, read_snapshot
from model.config import TextConfig
from model.text import TextEncoder
from server.search.reader import Reader, query_reader

ROOT = Path(__file__).parent.parent
CACHE = Path(".kgrank") / "cache"
AT = 10
LATEST = 3

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


def int8(encoder: TextEncoder) -> None:
    """Hold linear layers in int8, each row of weights with a scale of its own; activations are cast as they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        encoder.model = torch.ao.quantization.quantize_dynamic(encoder.model, settings)


def without(*layers: int) -> Callable[[TextEncoder], None]:
    """Return what takes layers out, the lowest 0."""

    def change(encoder: TextEncoder) -> None:
        encoder.model = copy.deepcopy(encoder.model)
        kept = [layer for number, layer in enumerate(encoder.model.encoder.layer) if number not in layers]
        encoder.model.encoder.layer = torch.nn.ModuleList(kept)

    return change


def as_it_is(encoder: TextEncoder) -> None:
    """Change nothing."""


def of_torch(precision: Literal["fp32", "bf16"], change: Callable[[TextEncoder], None] = as_it_is) -> Reader:
    """Return torch's encoder, changed."""
    encoder = TextEncoder(TextConfig(precision=precision))
    change(encoder)
    return encoder


FORMS: dict[str, Callable[[], Reader]] = {
    "float32": lambda: of_torch("fp32"),
    "bf16": lambda: of_torch("bf16"),
    "int8": lambda: of_torch("fp32", int8),
    "int8, compiled": lambda: query_reader(TextConfig(), CACHE),
    "5 of 6 layers": lambda: of_torch("fp32", without(5)),
    "5 of 6, the 5th gone": lambda: of_torch("fp32", without(4)),
    "4 of 6 layers": lambda: of_torch("fp32", without(4, 5)),
    "3 of 6, every other": lambda: of_torch("fp32", without(1, 3, 5)),
}


class Judge:
    """Asks the same of every form.

    Args:
        snapshot: the shop.
        products: how many products are candidates.
        generator: draws them, and the words of queries.
    """

    def __init__(self, snapshot: Snapshot, products: int, generator: np.random.Generator) -> None:
        titles = snapshot.catalogue.column("title").to_pylist()
        titled = np.array([row for row, title in enumerate(titles) if len(title.split()) > LATEST])
        chosen = np.sort(generator.choice(titled, min(products, len(titled)), replace=False))
        self.texts = [titles[row] for row in chosen.tolist()]
        self.queries = [_three_words(text, generator) for text in self.texts]
        place = np.full(len(snapshot.products), -1)
        place[chosen] = np.arange(len(chosen))
        histories = snapshot.histories
        self._moments = []
        for user in range(len(histories)):
            latest = place[histories.product_index[histories.rows(user)][-1 - LATEST :]]
            if latest[-1] >= 0 and (latest[:-1] >= 0).any():
                self._moments.append((latest[:-1][latest[:-1] >= 0], int(latest[-1])))

    def measure(self, encoder: Reader, reference: Float32s | None) -> tuple[dict[str, float], Float32s]:
        """Return what a form comes to, and its features `[N, W]`; the reference is float32's."""
        encoder.encode(self.texts[:64])
        began = time.perf_counter()
        features = encoder.encode(self.texts)
        per_second = len(self.texts) / (time.perf_counter() - began)
        times = []
        for query in self.queries[:200]:
            began = time.perf_counter()
            encoder.encode([query])
            times.append(time.perf_counter() - began)
        against = features if reference is None else reference
        asked = encoder.encode(self.queries)
        return {
            "texts_per_second": per_second,
            "query_ms": 1000 * median(times),
            "cosine": float((features * against).sum(1).mean()),
            "neighbours": _shared(_nearest(features), _nearest(against)),
            "search": _reciprocal_rank(asked @ features.T),
            "as_asked": _reciprocal_rank(asked @ against.T),
            "next": self._next(features),
        }, features

    def _next(self, features: Float32s) -> float:
        gains = []
        for known, right in self._moments:
            scores = features @ features[known].sum(0)
            scores[known] = -np.inf
            place = int((scores > scores[right]).sum())
            gains.append(1 / np.log2(place + 2) if place < AT else 0.0)
        return float(np.mean(gains))


def _three_words(title: str, generator: np.random.Generator) -> str:
    words = title.split()
    return " ".join(words[place] for place in np.sort(generator.choice(len(words), LATEST, replace=False)))


def _best(scores: Float32s) -> Int64s:
    return np.argsort(-scores, axis=1, kind="stable")[:, :AT]


def _reciprocal_rank(scores: Float32s) -> float:
    """Return MRR@10 where each query's right product stands in its own place."""
    found = _best(scores) == np.arange(len(scores))[:, None]
    return float(np.where(found, 1 / np.arange(1, AT + 1), 0).sum(1).mean())


def _nearest(features: Float32s) -> Int64s:
    likeness = features @ features.T
    np.fill_diagonal(likeness, -np.inf)
    return _best(likeness)


def _shared(one: Int64s, other: Int64s) -> float:
    return float(np.mean([len(set(a) & set(b)) / AT for a, b in zip(one.tolist(), other.tolist(), strict=True)]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--products", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(options.threads)
    beauty = DataConfig(
        source="tables",
        map_file="beauty-map.toml",
        interactions=("amazon-beauty/interactions.parquet",),
        products=("amazon-beauty/products.parquet",),
    )
    snapshot = read_snapshot(beauty, options.data, ROOT / "configs", CACHE)
    judge = Judge(snapshot, options.products, np.random.default_rng(0))
    reference: Float32s | None = None
    report: dict[str, dict[str, float]] = {}
    print(
        f"{'':22}{'texts/s':>9}{'query ms':>10}{'cosine':>8}{'neighbours':>12}{'search':>8}{'as asked':>10}{'next':>7}",
        file=sys.stderr,
    )
    for name, form in FORMS.items():
        report[name], features = judge.measure(form(), reference)
        reference = features if reference is None else reference
        row = report[name]
        print(
            f"{name:22}{row['texts_per_second']:9.0f}{row['query_ms']:10.2f}{row['cosine']:8.3f}"
            f"{row['neighbours']:12.3f}{row['search']:8.3f}{row['as_asked']:10.3f}{row['next']:7.4f}",
            file=sys.stderr,
            flush=True,
        )
    print(
        json.dumps(
            {
                "benchmark": "encoder_forms",
                "forms": report,
                "sizes": {"products": len(judge.texts), "threads": options.threads},
                "versions": {"torch": torch.__version__},
                "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            }
        )
    )


if __name__ == "__main__":
    main()
