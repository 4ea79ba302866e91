"""Propagation, forward and backward: ours, PyTorch Geometric's LightGCN on its edge_index path, and a CSR product.

The CSR peer is the same sum as a product with one normalised sparse matrix, whose backward uses that it is symmetric:
the best that torch's own sparse tensors allow. All on the same random graph with a long tail, in turns; prints one JSON
line. Example:
python benchmarks/propagation.py --rounds 3
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from model.graph import Relation, propagate, symmetric_relation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric
    from torch_geometric.nn import LightGCN


def measure(work: Callable[[], None]) -> tuple[float, float]:
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


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=4_000_000, help="directed edges, each way of a pair counted")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = np.random.default_rng(0)
    nodes = options.users + options.items
    head = generator.integers(0, options.users, options.edges // 2)
    tail = options.users + (options.items * generator.random(options.edges // 2) ** 2).astype(np.int64)
    relation = symmetric_relation(head, tail, nodes)
    start = torch.randn(nodes, options.dimension, generator=torch.Generator().manual_seed(0))
    alpha = torch.ones(1, requires_grad=True)
    embedding = start.clone().requires_grad_()

    def ours(half: bool) -> None:
        hidden = total = embedding
        for _ in range(options.layers):
            hidden = propagate(hidden, alpha, (relation,), half=half)
            total = total + hidden
        (total / (options.layers + 1)).sum().backward()

    results: dict[str, list[tuple[float, float]]] = {"ours_fp32": [], "ours_bf16": [], "csr": [], "lightgcn": []}
    memory = {}
    before = peak_mib()
    for name, half in (("ours_fp32", False), ("ours_bf16", True)):
        ours(half)
        memory[name] = peak_mib() - before
    edge_index, _ = relation.edge_index()
    peer = LightGCN(nodes, options.dimension, options.layers)
    with torch.no_grad():
        peer.embedding.weight.copy_(start)

    def theirs() -> None:
        peer.get_embedding(edge_index).sum().backward()

    matrix = compressed_rows(relation)

    def by_csr() -> None:
        hidden = total = embedding
        for _ in range(options.layers):
            hidden = _Symmetric.apply(matrix, hidden)
            total = total + hidden
        (total / (options.layers + 1)).sum().backward()

    for name, work in (("csr", by_csr), ("lightgcn", theirs)):
        before = peak_mib()
        work()
        memory[name] = peak_mib() - before
    for _ in range(options.rounds):
        for name, half in (("ours_fp32", False), ("ours_bf16", True)):
            gc.collect()
            results[name].append(measure(lambda half=half: ours(half)))
        for name, work in (("csr", by_csr), ("lightgcn", theirs)):
            gc.collect()
            results[name].append(measure(work))
    wall = {name: statistics.median(pair[0] for pair in values) for name, values in results.items()}
    processor = {name: statistics.median(pair[1] for pair in values) for name, values in results.items()}
    report = {
        "benchmark": "propagation",
        "sizes": {**vars(options), "directed_edges": len(relation.neighbours)},
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
