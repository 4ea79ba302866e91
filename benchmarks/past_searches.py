"""What a past search does to the next recommendations, on Amazon's Beauty, by how well it tells of what comes next.

    python -m benchmarks.past_searches ARTIFACT [--data ../shared/data] [--users 2000]

ARTIFACT is a model that was trained leave-one-out on Beauty (`configs/beauty-no-also.toml`). There are no logs of real
searches with this data set, so that each user's one search before the last product is made up:

    next        three words of that product's title: the search was for it
    category    the name of its deepest category
    beside      three words of the title of another product of that category
    elsewhere   three words of a title drawn from all: the search has nothing to do with what comes next

The served score, with a fresh search's lean of each weight (`server.past_searches`), ranks all products. Prints a
table of NDCG@10 and one JSON line.
"""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.search_quality import CACHE, ROOT, beauty_snapshot, dropped, users_before_last
from kg.snapshot import Snapshot
from model.artifact import load_artifact
from model.scoring import TEXT
from server.config import ServeSettings
from server.search.finder import Finder

AT = 10
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


def main() -> None:
    """Measure, and print a table and one JSON line."""
    options = _options()
    torch.set_num_threads(1)
    artifact = load_artifact(options.artifact)
    snapshot = beauty_snapshot(options.data, artifact)
    targets, base = users_before_last(artifact, snapshot, options.users)
    finder = Finder.build(artifact, snapshot, CACHE)
    text = artifact.scorer.matrix[:, artifact.scorer.blocks[TEXT]].numpy()
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind, queries in _searches(snapshot, targets).items():
        leans = np.stack([finder.lean([(query, 1.0)]) for query in queries])
        fit = leans @ text.T
        table[kind] = {str(weight): _judged(base + np.float32(weight) * fit, targets) for weight in WEIGHTS}
    _print(table)
    print(
        json.dumps(
            {
                "benchmark": "past_searches",
                "by_weight": table,
                "served_weight": ServeSettings().past_search_weight,
                "users": len(targets),
                "products": len(snapshot.products),
                "model": artifact.manifest.model_version,
                "versions": {name: version(name) for name in ("torch", "transformers")},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


def _searches(snapshot: Snapshot, targets: Int64s) -> dict[str, list[str]]:
    """Return each user's search of each kind."""
    generator = np.random.default_rng(2)
    titles: list[str] = snapshot.catalogue["title"].to_pylist()
    categories = [path[-1] if path else "" for path in snapshot.catalogue["category"].to_pylist()]
    of_category: dict[str, list[int]] = {}
    for product, category in enumerate(categories):
        of_category.setdefault(category, []).append(product)

    def words(product: int) -> str:
        return dropped(titles[product], generator) or categories[product] or "beauty"

    def beside(product: int) -> int:
        others = [each for each in of_category[categories[product]] if each != product]
        return int(generator.choice(others)) if others else product

    products = targets.tolist()
    return {
        "next": [words(each) for each in products],
        "category": [categories[each] or "beauty" for each in products],
        "beside": [words(beside(each)) for each in products],
        "elsewhere": [words(int(generator.integers(len(titles)))) for _ in products],
    }


def _judged(score: Float32s, targets: Int64s) -> dict[str, float]:
    """Return hit rate and NDCG at ten of one target each."""
    place = (score > score[np.arange(len(targets)), targets][:, None]).sum(1)
    hit = place < AT
    return {
        "hr@10": round(float(hit.mean()), 4),
        "ndcg@10": round(float(np.where(hit, 1 / np.log2(place + 2), 0).mean()), 4),
    }


def _print(table: dict[str, dict[str, dict[str, float]]]) -> None:
    print("| NDCG@10 | " + " | ".join(f"{weight:g}" for weight in WEIGHTS) + " |")
    print("|---|" + "---|" * len(WEIGHTS))
    for kind, row in table.items():
        print(f"| {kind} | " + " | ".join(f"{each['ndcg@10']:.4f}".lstrip("0") for each in row.values()) + " |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="folder of a model trained leave-one-out on Beauty")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--users", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
