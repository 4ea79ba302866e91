"""From a call that writes a product to the moment when it is ranked, found and explained.

    python -m benchmarks.freshness [--products 12000] [--calls 10] [--together 100] [--changes 100]

A real server over a synthetic shop and a real Neo4j that has its products. The clock starts when UpsertProducts has
returned; three callers ask for the new product, by Rank, by Search and by Explain with a reason, until each has it.
`rebuilt` is what takes the same change into service without going on from what is there: `model.refresh` over the whole
graph, a new search index and a new reader of queries, in this process. `memory_mib` is the server's, after a first
change and after `--changes` more. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import structlog
import torch

from benchmarks.synthetic_shop import fill_text_cache, make_home
from kg.config import GraphSettings
from kg.snapshot import Snapshot
from kg.store import Graph
from kg.tables import PRODUCTS, Tables
from kgrank.client import Client, product
from kgrank.errors import CallError
from kgrank.v1.catalog_service_pb2 import Product
from kgrank.v1.common_pb2 import Context
from model.artifact import load_artifact
from model.refresh import refresh
from model.retrieval import ProductIndex
from server.search.finder import Finder
from server.users import sampled_users

ROOT = Path(__file__).parent.parent
ASK_AGAIN_S = 0.005
SEED = "product-0000001"


def main() -> None:
    """Measure, and print one JSON line."""
    options = _options()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = Path(folder) / "home"
        make_home(
            home,
            users=2 * options.products,
            products=options.products,
            interactions=10 * options.products,
            graph=128,
            text=128,
        )
        fill_text_cache(home)
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    rebuilt_s = _rebuilt_s(home)
    snapshot = Snapshot.open(home / "snapshots" / "synthetic")
    # Of the same brand and category as the product that an explanation begins at, so that there is a reason.
    like = snapshot.catalogue.slice(snapshot.products.index(SEED), 1).to_pylist()[0]
    new = partial(_new, like["brand"], like["category"])
    with Graph.connect(GraphSettings(), home / "graph") as graph:
        graph.ensure_schema()
        graph.load(Tables(products=_products(home)))
        with _server(home) as (target, process), Client(target, timeout_s=60) as client:
            _upsert(client, [new("first")])
            memory = [process.memory_info().rss >> 20]
            rounds = [_upsert(client, [new(f"one{number}")]) for number in range(options.calls)]
            many = [new(f"many{number}") for number in range(options.together)]
            together = _upsert(client, many)
            for number in range(options.changes):
                client.upsert_products([new("often", f"Zeppelin often{number}")])
                _until(lambda title=f"Zeppelin often{number}": _title(client, "often") == title)
            memory.append(process.memory_info().rss >> 20)
    return {
        "benchmark": "freshness",
        "products": options.products,
        "ms": {name: _summary([each[name] for each in rounds]) for name in rounds[0]},
        "together": options.together,
        "together_ms": together,
        "rebuilt_ms": round(rebuilt_s * 1000),
        "ratio": round(rebuilt_s * 1000 / statistics.median(each["rankable"] for each in rounds), 1),
        "memory_mib": memory,
        "versions": {name: version(name) for name in ("kgrank", "torch", "faiss-cpu", "tantivy", "neo4j")},
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
    }


def _upsert(client: Client, products: list[Product]) -> dict[str, int]:
    """Write products; return how long the call took, and until the last is ranked, found and explained, in ms."""
    last = products[-1]
    began = time.perf_counter()
    client.upsert_products(products)
    returned = time.perf_counter()
    word = last.title.split()[-1]
    seed = Context(seed_product_ids=[SEED])
    asked: dict[str, Callable[[], bool]] = {
        "rankable": lambda: not client.rank("", [last.product_id]).missing_ids,
        "searchable": lambda: client.search(word, k=1).results[0].product_id == last.product_id,
        "explainable": lambda: bool(client.explain("", last.product_id, context=seed).result.reasons),
    }
    took: dict[str, int] = {"call": round((returned - began) * 1000)}

    def wait(name: str, holds: Callable[[], bool]) -> None:
        _until(holds)
        took[name] = round((time.perf_counter() - returned) * 1000)

    threads = [threading.Thread(target=wait, args=each) for each in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(took) <= len(asked):
        raise SystemExit(f"{last.product_id} is not {', '.join(set(asked) - set(took))}")
    return took


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if holds():
                return
        except (CallError, IndexError, ValueError):  # it is not there yet
            pass
        if time.monotonic() > deadline:
            raise SystemExit("a new product did not come into service within two minutes")
        time.sleep(ASK_AGAIN_S)


def _title(client: Client, product_id: str) -> str:
    (result,) = client.rank("", [product_id], details=True).results
    return result.title


def _new(brand: str, category: list[str], name: str, title: str = "") -> Product:
    return product(name, title or f"Zeppelin qz{name}qz", brand=brand, category=category, price=5.0)


def _rebuilt_s(home: Path) -> float:
    """Return how long a whole refresh takes: vectors of all products, search index, reader of queries."""
    snapshot = Snapshot.open(home / "snapshots" / "synthetic")
    (folder,) = (path for path in (home / "artifacts").iterdir() if path.is_dir())
    artifact = load_artifact(folder)
    Finder.build(artifact, snapshot, home / "cache")  # loads the text encoder, which stays
    began = time.perf_counter()
    scorer = refresh(artifact, snapshot, home / "cache")
    with torch.inference_mode():
        ProductIndex.build(scorer, sampled_users(scorer, snapshot, 256))
    Finder.build(artifact, snapshot, home / "cache")
    return time.perf_counter() - began


def _products(home: Path) -> pa.Table:
    snapshot = Snapshot.open(home / "snapshots" / "synthetic")
    rows = snapshot.catalogue.select(["title", "brand", "category", "price", "available", "attributes"])
    table = rows.add_column(0, "product_id", snapshot.products.array)
    table = table.add_column(2, "description", pa.array([""] * len(table), pa.string()))
    return table.select(PRODUCTS.names).cast(PRODUCTS)


@contextmanager
def _server(home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run `kgrank serve`, until it has said that it is ready to grow."""
    command = [sys.executable, "-m", "server.main", "serve", "--port", "0", "--json"]
    log = home / "server.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"KGRANK_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            assert process.stdout is not None
            target = json.loads(process.stdout.readline())["target"]
            deadline = time.monotonic() + 300
            while not ("catalogue_ready_to_grow" in log.read_text() and "graph_open" in log.read_text()):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield target, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _summary(values: list[int]) -> dict[str, float]:
    return {"median": statistics.median(values), "max": max(values)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=12_000)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--together", type=int, default=100)
    parser.add_argument("--changes", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
