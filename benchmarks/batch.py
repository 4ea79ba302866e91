"""Batch scoring against faiss's flat index: users a second, exact top-k of the same vectors.

    python -m benchmarks.batch [--users 8192] [--products 50000] [--dimension 128] [--results 100] [--rounds 3]

Ours is what `kgrank score` does with a block of users once they are encoded: matrix product, top-k, order. The peer is
`faiss.IndexFlatIP`, searched in blocks of 2000. Both use the same threads, in turns; prints one JSON line.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import faiss
import numpy as np
import numpy.typing as npt
import torch

from model.ranker import top_k

BLOCK_BYTES = 64 * 2**20
PEER_BLOCK = 2000

Float32s = npt.NDArray[np.float32]


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8192)
    parser.add_argument("--products", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--results", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    generator = np.random.default_rng(5)
    users = generator.normal(size=(options.users, options.dimension)).astype(np.float32)
    products = generator.normal(size=(options.products, options.dimension)).astype(np.float32)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(options.dimension)
    index.add(products)
    matrix, block = torch.from_numpy(products), max(1, BLOCK_BYTES // (4 * options.products))

    def ours() -> npt.NDArray[np.int64]:
        parts = [torch.from_numpy(users[start : start + block]) for start in range(0, len(users), block)]
        return np.concatenate([top_k((part @ matrix.T).numpy(), options.results)[0] for part in parts])

    def peer() -> npt.NDArray[np.int64]:
        parts = [users[start : start + PEER_BLOCK] for start in range(0, len(users), PEER_BLOCK)]
        return np.concatenate([index.search(part, options.results)[1] for part in parts])

    rates: dict[str, list[float]] = {"ours": [], "faiss": []}
    found = {}
    for _ in range(options.rounds):
        for name, run in (("ours", ours), ("faiss", peer)):
            rate, found[name] = _timed(run, options.users)
            rates[name].append(rate)
    same = [len(np.intersect1d(a, b)) for a, b in zip(found["ours"], found["faiss"], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    print(
        json.dumps(
            {
                "benchmark": "batch",
                "users_per_s": medians,
                "ratio": round(medians["ours"] / medians["faiss"], 3),
                "overlap": round(float(np.mean(same)) / options.results, 5),
                "sizes": {name: getattr(options, name) for name in ("users", "products", "dimension", "results")},
                "threads": torch.get_num_threads(),
                "versions": {name: version(name) for name in ("torch", "faiss-cpu", "numpy")},
                "machine": f"{platform.machine()} {platform.system()}",
            }
        )
    )


def _timed(run: Callable[[], npt.NDArray[np.int64]], users: int) -> tuple[float, npt.NDArray[np.int64]]:
    began = time.perf_counter()
    result = run()
    return users / (time.perf_counter() - began), result


if __name__ == "__main__":
    with torch.inference_mode():
        main()
