"""Training time and memory as a shop grows: 1x, 10x, 100x users, and 10k, 100k, 1M products.

The shops are synthetic, with the degree distributions of Amazon Beauty or of Complete Journey: how many interactions a
user has, how they spread over the products, how many facts a product has. Each size runs in a process of its own and
prints one JSON line: seconds to build the graph, milliseconds of a training step by the clock and on the processor,
seconds of an epoch by the clock, users encoded and ranked a second, parameters, peak memory beyond that of imports:
python benchmarks/scale.py --users 10000 100000 --products 10000 --like beauty
With --softmax it times the loss over the whole catalogue beside the sampled one instead, in turns, for each number of
products; `model.negatives.FULL_SOFTMAX_PRODUCTS` comes from there.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kg.snapshot import Edges, Histories, Snapshot
from kg.vocabulary import Vocabulary
from model.batches import batches, count_batches
from model.config import ModelConfig, TrainConfig
from model.history import recent_events
from model.loss import batch_loss
from model.memory import kept_memory
from model.negatives import DEFAULT_NEGATIVES, NegativeSampler, sampled_softmax_loss
from model.negatives import negative_sampler as sampler_of
from model.network import RankingNetwork
from model.precision import computes_in_bf16
from model.product_graph import product_graph
from model.softmax import softmax_loss

DAY_MS = 86_400_000
TEXT_WIDTH = 384
PLACES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)
TOP = (0, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
# Measured on the snapshots of the two data sets: quantiles (PLACES) of the length of a history; the share of all
# interactions that the most popular products have (TOP); product-to-product facts, brands and categories for a product.
SHAPES = {
    "beauty": {
        "length": (5, 5, 5, 6, 9, 14, 21, 43, 98, 204),
        "share": (0, 0.0026, 0.0206, 0.1048, 0.2947, 0.4277, 0.6343, 0.8108, 0.9195, 1),
        "facts": {"ALSO_BOUGHT": 19.8, "ALSO_VIEWED": 12.8, "BOUGHT_TOGETHER": 0.75},
        "groups": {"HAS_BRAND": 0.17, "IN_CATEGORY": 0.05},
    },
    "journey": {
        "length": (1, 49, 150, 384, 807, 1322, 1687, 2682, 3530, 4084),
        "share": (0, 0.0251, 0.0848, 0.2355, 0.4368, 0.5628, 0.7612, 0.906, 0.9685, 1),
        "facts": {},
        "groups": {"HAS_BRAND": 0.06, "IN_CATEGORY": 0.09, "HAS_ATTRIBUTE": 0.13},
    },
}


def shop(users: int, products: int, like: str, generator: np.random.Generator) -> Snapshot:
    """Return a snapshot of a size with a data set's shape."""
    shape = SHAPES[like]
    length = np.interp(generator.random(users), PLACES, shape["length"]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)])
    rows = int(offsets[-1])
    by_rank = generator.permutation(products).astype(np.int32)

    def popular(count: int) -> npt.NDArray[np.int32]:
        rank = np.interp(generator.random(count), shape["share"], TOP) * products
        return by_rank[np.minimum(rank.astype(np.int64), products - 1)]

    at_ms = np.arange(rows, dtype=np.int64) * 1000 + DAY_MS
    histories = Histories(offsets, popular(rows), np.full(rows, 4, np.int8), at_ms, np.ones(rows, np.float32))
    facts = {}
    for name, mean in shape["facts"].items():
        count = round(mean * products)
        facts[name] = Edges(popular(count), generator.integers(0, products, count).astype(np.int32))
    nodes, kinds = products, []
    for name, share in shape["groups"].items():
        size = max(2, round(share * products))
        group = (size * generator.random(products) ** 3).astype(np.int32)  # few large ones, many small
        facts[name] = Edges(np.arange(products, dtype=np.int32), nodes + group)
        kinds += [name] * size
        nodes += size
    names = [str(number) for number in range(nodes - products)]
    return Snapshot(
        users=Vocabulary([f"u{number}" for number in range(users)]),
        products=Vocabulary([f"p{number}" for number in range(products)]),
        catalogue=pa.table({"title": [""] * products, "text": [""] * products}),
        nodes=pa.table({"kind": kinds, "id": names, "name": names}),
        histories=histories,
        facts=facts,
        as_of_ms=int(at_ms[-1]),
        content_hash=f"scale-{users}-{products}-{like}",
    )


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Build one shop and take some steps of training on it."""
    generator = np.random.default_rng(0)
    imported = _peak_mib()
    began = time.perf_counter()
    snapshot = shop(options.users[0], options.products[0], options.like, generator)
    model = ModelConfig(dimension=options.dimension, layers=2, history_length=20)
    train = TrainConfig(batch_users=options.batch_users, negatives=options.negatives)
    made_s, data_mib = time.perf_counter() - began, _peak_mib()
    began = time.perf_counter()
    graph = product_graph(snapshot, snapshot.histories, model)
    graph_s = time.perf_counter() - began
    names = list(graph.relations)
    torch.manual_seed(0)
    network = RankingNetwork(model, TEXT_WIDTH, len(graph), names).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    text = torch.randn(len(graph), TEXT_WIDTH)
    identity = torch.arange(len(graph))
    relations = graph.relations_of(names, torch.device("cpu"))
    sampler = None if options.full else sampler_of(snapshot.histories, graph.product_count, train)
    waits: dict[str, list[float]] = {"step": [], "step_processor": []}
    epoch = batches(snapshot.histories, graph.product_count, model, train, generator)
    with kept_memory():
        for step in range(options.steps + 1):
            began, worked = time.perf_counter(), time.process_time()
            batch = next(epoch)
            if sampler is not None:
                batch = replace(batch, negatives=sampler.draw(generator))
            optimizer.zero_grad(set_to_none=True)
            batch_loss(network, text, identity, relations, graph.product_count, batch).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if step:  # the first one warms up
                waits["step"].append(time.perf_counter() - began)
                waits["step_processor"].append(time.process_time() - worked)
        with torch.no_grad():
            worked = time.process_time()
            products = network.nodes(text, identity, relations)[: graph.product_count]
            nodes_s = time.process_time() - worked
            network.eval()
            some = snapshot.histories.take(np.arange(min(256, options.users[0])))
            worked = time.process_time()
            vectors = network.users(products, recent_events(some, model.history_length), last_only=True)[:, 0]
            (vectors @ products.T).topk(10)
            ranked_s = time.process_time() - worked
    step_s, steps = statistics.median(waits["step"]), count_batches(snapshot.histories, train)
    return {
        "benchmark": "scale",
        "like": options.like,
        "users": options.users[0],
        "products": options.products[0],
        "nodes": len(graph),
        "interactions": len(snapshot.histories.product_index),
        "edges": sum(len(relation.neighbours) for relation in relations),
        "dimension": options.dimension,
        "batch_users": options.batch_users,
        "negatives": 0 if sampler is None else sampler.count,
        "shop_made_s": round(made_s, 1),
        "graph_s": round(graph_s, 2),
        "step_ms": round(step_s * 1e3, 1),
        "step_processor_ms": round(statistics.median(waits["step_processor"]) * 1e3, 1),
        "nodes_forward_processor_ms": round(nodes_s * 1e3, 1),
        "epoch_s": round(step_s * steps, 1),
        "users_ranked_per_processor_s": round(len(some) / ranked_s, 1),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "data_mib": round(data_mib - imported, 1),
        "peak_mib": round(_peak_mib() - imported, 1),
    }


def compare_softmax(options: argparse.Namespace, products: int) -> dict[str, object]:
    """Time the loss over the whole catalogue and over negatives, forward and backward, in turns."""
    generator, torch_generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    questions, width = options.questions, options.dimension
    users = torch.nn.functional.normalize(torch.randn(questions, width, generator=torch_generator), dim=1)
    table = torch.nn.functional.normalize(torch.randn(products, width, generator=torch_generator), dim=1)
    right = torch.randint(products, (questions,), generator=torch_generator)
    targets = (torch.arange(questions), right, torch.ones(questions))
    interactions = generator.integers(0, products, 100_000).astype(np.int32)
    count = options.negatives or DEFAULT_NEGATIVES
    share = np.bincount(interactions, minlength=products) / len(interactions)
    sampler = NegativeSampler(count, interactions, (count / 2) * (1 / products + share))
    given = {"scale": 1 / 0.07, "half": computes_in_bf16(torch.device("cpu"))}
    leaves = (users.requires_grad_(), table.requires_grad_())

    def full() -> None:
        softmax_loss(*leaves, targets, **given).backward()

    def sampled() -> None:
        sampled_softmax_loss(sampler.draw(generator), *leaves, targets, **given).backward()

    waits: dict[str, list[float]] = {"full": [], "sampled": []}
    works: dict[str, Callable[[], None]] = {"full": full, "sampled": sampled}
    with kept_memory():
        for turn in range(options.steps + 1):
            for name, work in works.items():
                users.grad = table.grad = None
                began = time.process_time()
                work()
                if turn:
                    waits[name].append(time.process_time() - began)
    milliseconds = {name: round(statistics.median(values) * 1e3, 1) for name, values in waits.items()}
    return {
        "benchmark": "scale.softmax",
        "products": products,
        "questions": questions,
        "dimension": width,
        "negatives": count,
        "processor_ms": milliseconds,
        "ratio": round(milliseconds["full"] / milliseconds["sampled"], 2),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--products", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--like", choices=sorted(SHAPES), default="beauty")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--batch-users", type=int, default=256)
    parser.add_argument("--negatives", type=int, default=0, help="as train.negatives")
    parser.add_argument("--full", action="store_true", help="the whole catalogue, however large")
    parser.add_argument("--questions", type=int, default=1400, help="questions of a step, with --softmax")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--softmax", action="store_true", help="compare the two losses instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {
        "threads": options.threads,
        "versions": {"torch": torch.__version__},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    if options.softmax:
        for products in options.products:
            print(json.dumps(compare_softmax(options, products) | machine), flush=True)
        return
    # Users vary beside the smallest catalogue, products beside the fewest users.
    sizes = [(users, options.products[0]) for users in options.users]
    sizes += [(options.users[0], products) for products in options.products[1:]]
    if len(sizes) == 1:
        print(json.dumps(measure(options) | machine), flush=True)
        return
    rest = [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in ("like", "dimension", "batch_users", "negatives", "steps", "threads")
    ]
    rest += ["--full"] * options.full
    for users, products in sizes:
        command = [sys.executable, "-m", "benchmarks.scale", f"--users={users}", f"--products={products}", *rest]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
