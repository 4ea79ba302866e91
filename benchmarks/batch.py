"""Batch scoring against faiss's flat index and implicit: users a second, exact top-k of the same vectors.

    python -m benchmarks.batch [--users 8192] [--products 50000] [--dimension 128] [--results 100] [--rounds 5]

Ours is what `kgrank score` does with users once they are encoded. The peers are `faiss.IndexFlatIP`, in blocks of 2000,
and `recommend` of implicit's matrix factorisation with these vectors as its factors, in blocks of 1000. All use the
same threads, in turns; the ratio is to the faster peer. Vectors are normally distributed, without any structure that
would help to look at fewer products. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar

import faiss
import numpy as np
import numpy.typing as npt
import torch
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor

from kg.snapshot import Histories
from model.exhaustive import ExhaustiveSearch
from model.scoring import UserVectors

FAISS_BLOCK = 2000
IMPLICIT_BLOCK = 1000

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Row = TypeVar("Row", np.int64, np.float32)


@dataclass(frozen=True)
class Products:
    """A scoring model that is only its products."""

    matrix: Tensor
    blocks: Mapping[str, slice] = field(default_factory=dict)

    def encode_users(self, histories: Histories, now_ms: Int64s, candidates: Int64s | None = None) -> UserVectors:
        """Not asked for."""
        raise NotImplementedError


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8192)
    parser.add_argument("--products", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--results", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    generator = np.random.default_rng(5)
    users = generator.normal(size=(options.users, options.dimension)).astype(np.float32)
    products = generator.normal(size=(options.products, options.dimension)).astype(np.float32)
    runs = {
        "ours": _ours(users, products, options.results),
        "faiss": _faiss(users, products, options.results),
        "implicit": _implicit(users, products, options.results),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    cpu_us: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    with threadpool_limits(torch.get_num_threads()):
        for _ in range(options.rounds):
            for name, run in runs.items():
                began_cpu, began = time.process_time(), time.perf_counter()
                found[name] = run()
                rates[name].append(options.users / (time.perf_counter() - began))
                cpu_us[name].append((time.process_time() - began_cpu) / options.users * 1e6)
    same = [len(np.intersect1d(a, b)) for a, b in zip(found["ours"], found["faiss"], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    cpu = {name: round(statistics.median(values), 1) for name, values in cpu_us.items()}
    print(
        json.dumps(
            {
                "benchmark": "batch",
                "users_per_s": medians,
                "ratio": round(medians["ours"] / max(medians["faiss"], medians["implicit"]), 3),
                "cpu_us_a_user": cpu,
                "cpu_ratio": round(min(cpu["faiss"], cpu["implicit"]) / cpu["ours"], 3),
                "recall": round(float(np.mean(same)) / options.results, 6),
                "sizes": {name: getattr(options, name) for name in ("users", "products", "dimension", "results")},
                "threads": torch.get_num_threads(),
                "versions": {name: version(name) for name in ("torch", "faiss-cpu", "implicit", "numpy")},
                "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
            }
        )
    )


def _ours(users: Float32s, products: Float32s, k: int) -> Callable[[], Int64s]:
    search = ExhaustiveSearch(Products(torch.from_numpy(products)), k)
    nothing = np.empty(0, np.float32)
    offsets, no_products = np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32)
    asked = UserVectors(torch.from_numpy(users), offsets, no_products, nothing, nothing)
    return lambda: search.search(asked).product_index


def _faiss(users: Float32s, products: Float32s, k: int) -> Callable[[], Int64s]:
    index = faiss.IndexFlatIP(products.shape[1])
    index.add(products)

    def run() -> Int64s:
        faiss.omp_set_num_threads(torch.get_num_threads())
        return np.concatenate([index.search(part, k)[1] for part in _parts(users, FAISS_BLOCK)])

    return run


def _implicit(users: Float32s, products: Float32s, k: int) -> Callable[[], Int64s]:
    model = AlternatingLeastSquares(factors=products.shape[1], num_threads=torch.get_num_threads())
    model.user_factors, model.item_factors = users, products

    def run() -> Int64s:
        parts = _parts(np.arange(len(users)), IMPLICIT_BLOCK)
        nothing = [sparse.csr_matrix((len(part), len(products)), dtype=np.float32) for part in parts]
        return np.concatenate(
            [
                model.recommend(part, had, N=k, filter_already_liked_items=False)[0]
                for part, had in zip(parts, nothing, strict=True)
            ]
        )

    return run


def _parts(rows: npt.NDArray[Row], size: int) -> list[npt.NDArray[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


if __name__ == "__main__":
    main()
