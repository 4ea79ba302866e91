"""From an event that one server has acknowledged to the moment when another server answers with it.

    python -m benchmarks.following [--events 100] [--products 12000]

Two servers, each with a home and a journal of its own, on one real Neo4j. An event of a user of whom nothing is known
is written to the one; the clock starts when WriteEvent has returned, and stops when the other calls the user known. The
two take turns, and the moments of writing are drawn, so that they keep no step with the followers' looks at the graph.
Then many events are written to the one at once, and what they take of the other's processor is told, and what following
takes while nothing is written. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import cpu_s, process
from benchmarks.synthetic_shop import make_home
from kg.config import GraphSettings
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.v1.common_pb2 import USER_STATE_COLD
from server.follow import POLL_S

ASK_AGAIN_S = 0.002
PROMISED_S = 2.0
WARM_UP = 5
LONGEST_S = 120.0
REST_S = 10.0
BATCHES, BATCH = 40, 100


def main() -> None:
    """Measure, and print one JSON line."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = Path(folder) / "home-0"
        make_home(
            home,
            users=2 * options.products,
            products=options.products,
            interactions=10 * options.products,
            graph=128,
            text=128,
        )
        with Graph.connect(GraphSettings(), home / "graph") as graph, ExitStack() as stack:
            graph.ensure_schema()
            servers = [stack.enter_context(_server(each)) for each in (home, _beside(home))]
            print(json.dumps(_measure(options, servers)))


@dataclass(frozen=True)
class _Server:
    client: Client
    process: "subprocess.Popen[str]"


def _measure(options: argparse.Namespace, servers: list[_Server]) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    took = []
    for number in range(WARM_UP + options.events):
        time.sleep(generator.uniform(0, 2 * POLL_S))
        writer, reader = servers if number % 2 else servers[::-1]
        took.append(
            _followed_s(writer.client, reader.client, f"visitor-{number}", f"product-{number % options.products:07}")
        )
    idle_share, event_us = _cost(*servers)
    median, p99 = np.percentile(took[WARM_UP:], (50, 99))
    return {
        "benchmark": "following",
        "events": options.events,
        "median_ms": round(1000 * median),
        "p99_ms": round(1000 * p99),
        "within_2_s": round(float((np.array(took[WARM_UP:]) <= PROMISED_S).mean()), 3),
        "max_ms": round(1000 * max(took[WARM_UP:])),
        "idle_cpu_share": round(idle_share, 4),
        "cpu_us_a_followed_event": round(event_us),
        "polled_every_ms": round(1000 * POLL_S),
        "products": options.products,
        "versions": {name: version(name) for name in ("kgrank", "grpcio", "neo4j")},
        "machine": f"{platform.machine()} {os.cpu_count()} cores, shared by two servers and Neo4j",
    }


def _followed_s(writer: Client, reader: Client, user_id: str, product_id: str) -> float:
    """Return the time from a server's word that it has an event to the first answer of another with it."""
    writer.write_event(event(user_id, product_id, event_id=f"of-{user_id}"))
    began = time.perf_counter()
    while reader.recommend(user_id, k=1).user_state == USER_STATE_COLD:
        if time.perf_counter() - began > LONGEST_S:
            raise SystemExit(f"an event was not followed within {LONGEST_S:g} s")
        time.sleep(ASK_AGAIN_S)
    return time.perf_counter() - began


def _cost(writer: _Server, reader: _Server) -> tuple[float, float]:
    """Return the share of a core that following takes at rest, and the processor time that it takes an event, in us."""
    before_s, began = cpu_s(reader.process), time.perf_counter()
    time.sleep(REST_S)
    idle_share = (cpu_s(reader.process) - before_s) / (time.perf_counter() - began)
    before_s, began = cpu_s(reader.process), time.perf_counter()
    for batch in range(BATCHES):
        writer.client.write_events(
            event(f"many-{batch}-{number}", f"product-{number:07}", event_id=f"many-{batch}-{number}")
            for number in range(BATCH)
        )
    while reader.client.recommend(f"many-{BATCHES - 1}-{BATCH - 1}", k=1).user_state == USER_STATE_COLD:
        if time.perf_counter() - began > LONGEST_S:
            raise SystemExit(f"{BATCHES * BATCH:,} events were not followed within {LONGEST_S:g} s")
        time.sleep(POLL_S)  # seldom, so that the question itself hardly counts
    spent_s = cpu_s(reader.process) - before_s - idle_share * (time.perf_counter() - began)
    return idle_share, 1e6 * spent_s / (BATCHES * BATCH)


def _beside(home: Path) -> Path:
    """Return another home with the same models, snapshots and graph."""
    other = home.with_name("home-1")
    other.mkdir()
    for name in ("artifacts", "snapshots", "graph"):
        (other / name).symlink_to(home / name)
    return other


@contextmanager
def _server(home: Path) -> Iterator[_Server]:
    """Run `kgrank serve` over a home; yield its client once it has read the shop's rules, and so reached the graph."""
    command = [sys.executable, "-m", "server.main", "serve", "--port", "0", "--json"]
    settings = {"KGRANK_HOME": str(home), "KGRANK_SERVE__SEARCH": "false", "KGRANK_SERVE__THREADS": "1"}
    with process(command, os.environ | settings | {"KGRANK_SERVE__RULES_WAIT_S": "300"}) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        if not line:
            raise SystemExit(f"the server of {home} ended with {running.wait()}")
        with Client(json.loads(line)["target"], timeout_s=60) as client:
            yield _Server(client, running)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--products", type=int, default=12_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
