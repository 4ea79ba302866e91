"""Propagation, forward and backward: ours, PyTorch Geometric's LightGCN on its edge_index path, and a CSR product.

The CSR peer is the same sum as a product with one normalised sparse matrix, whose backward uses that it is symmetric:
the best that torch's own sparse tensors allow. All on the same random graph with a long tail, in turns. The memory that
a first pass takes beyond what stands before it is measured in a process of its own for each. Prints one JSON line.
Example:
python benchmarks/propagation.py --rounds 3
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.graph import Relation, propagate, symmetric_relation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric
    from torch_geometric.nn import LightGCN

ROOT = Path(__file__).parent.parent

Work = Callable[[], None]


def measure(work: Work) -> tuple[float, float]:
    """Return wall and processor milliseconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


class _Symmetric(torch.autograd.Function):
    """A h with Aᵀ = A, so that the backward product needs no transposed copy."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        return matrix @ nodes

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, ctx.matrix @ gradients[0]


def compressed_rows(relation: Relation) -> torch.Tensor:
    """Return Â as a sparse CSR tensor."""
    nodes = len(relation.offsets) - 1
    _, weight = relation.edge_index()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "in beta state"
        return torch.sparse_csr_tensor(relation.offsets, relation.neighbours, weight, (nodes, nodes))


def memory_mib(field: str) -> float:
    """Return a figure of this process: VmRSS, what it holds, or VmHWM, the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def peak_growth_mib(work: Work) -> float:
    """Return how much more than before this process held at most during a call."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of what was built before is not of the call
    before = memory_mib("VmRSS")
    work()
    return memory_mib("VmHWM") - before


def methods(options: argparse.Namespace) -> tuple[Relation, dict[str, Callable[[], Work]]]:
    """Return the graph, and for each method what makes its pass, forward and backward."""
    generator = np.random.default_rng(0)
    nodes = options.users + options.items
    head = generator.integers(0, options.users, options.edges // 2)
    tail = options.users + (options.items * generator.random(options.edges // 2) ** 2).astype(np.int64)
    relation = symmetric_relation(head, tail, nodes)
    start = torch.randn(nodes, options.dimension, generator=torch.Generator().manual_seed(0))

    def layered(step: Callable[[torch.Tensor], torch.Tensor]) -> Work:
        embedding = start.clone().requires_grad_()

        def work() -> None:
            hidden = total = embedding
            for _ in range(options.layers):
                hidden = step(hidden)
                total = total + hidden
            (total / (options.layers + 1)).sum().backward()

        return work

    def ours(*, half: bool) -> Work:
        alpha = torch.ones(1, requires_grad=True)
        return layered(lambda hidden: propagate(hidden, alpha, (relation,), half=half))

    def csr() -> Work:
        matrix = compressed_rows(relation)
        return layered(lambda hidden: _Symmetric.apply(matrix, hidden))

    def lightgcn() -> Work:
        edge_index, _ = relation.edge_index()
        peer = LightGCN(nodes, options.dimension, options.layers)
        with torch.no_grad():
            peer.embedding.weight.copy_(start)
        return lambda: peer.get_embedding(edge_index).sum().backward()

    ours_of = {"ours_fp32": partial(ours, half=False), "ours_bf16": partial(ours, half=True)}
    return relation, ours_of | {"csr": csr, "lightgcn": lightgcn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=4_000_000, help="directed edges, each way of a pair counted")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    relation, makers = methods(options)
    if options.memory_of:
        tiny = argparse.Namespace(**vars(options) | {"users": 200, "items": 100, "edges": 2000})
        methods(tiny)[1][options.memory_of]()()  # what libraries load at a first call is not of the pass
        print(peak_growth_mib(makers[options.memory_of]()))
        return
    command = [sys.executable, "-m", "benchmarks.propagation", *sys.argv[1:], "--memory-of"]
    memory = {name: float(subprocess.check_output([*command, name], cwd=ROOT)) for name in makers}
    works = {name: make() for name, make in makers.items()}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(options.rounds):
        for name, work in works.items():
            gc.collect()
            results[name].append(measure(work))
    wall = {name: statistics.median(pair[0] for pair in values) for name, values in results.items()}
    processor = {name: statistics.median(pair[1] for pair in values) for name, values in results.items()}
    sizes = {name: value for name, value in vars(options).items() if name != "memory_of"}
    report = {
        "benchmark": "propagation",
        "sizes": {**sizes, "directed_edges": len(relation.neighbours)},
        "wall_ms": {name: round(value, 1) for name, value in wall.items()},
        "processor_ms": {name: round(value, 1) for name, value in processor.items()},
        "peak_memory_growth_mib": {name: round(value, 1) for name, value in memory.items()},
        "ratio": {
            f"{ours} to {peer}": round(wall[peer] / wall[ours], 2)
            for ours in ("ours_fp32", "ours_bf16")
            for peer in ("lightgcn", "csr")
        },
        "versions": {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
