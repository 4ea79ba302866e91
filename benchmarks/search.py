"""Search over gRPC at a steady rate, against an echo: latency of the real server over 100,000 products.

    python -m benchmarks.search [--rate 50] [--seconds 30] [--rounds 2]

Ours is `kgrank serve` over a synthetic shop; the echo is the same kind of server (grpc.aio on uvloop) that returns one
of ours' replies as prebuilt bytes. Both get the same requests from ghz (a load generator in Go; `--ghz`, or on PATH),
in turns: queries of one to five words of titles, a fifth of them with a typing error, by known users, a quarter with a
filter by category; none is sent twice in a load, so that no answer is found ready. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.server_load import RANKING, ROOT, echo, server
from benchmarks.synthetic_shop import CATEGORIES, make_home, product_titles
from kgrank.client import Client

CALL = f"{RANKING}/Search"
CALLERS, CONNECTIONS = 16, 4
GOAL_MS = 40


def main() -> None:
    """Measure, and print one JSON line."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = Path(folder) / "home"
        sizes = {name: getattr(options, name) for name in ("users", "products", "interactions")}
        make_home(home, **sizes, graph=options.graph, text=options.text)
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    titles = product_titles(options.products)
    with server(home, keeping=True) as (target, process):
        with Client(target, timeout_s=60) as client:
            reply = client.search(" ".join(titles[0].split()[:3]), "user-0000001", k=options.results)
        payload = home / "reply.bin"
        payload.write_bytes(reply.SerializeToString())
        with echo(payload, "Search") as (echo_target, _):
            warming = _requests(home, options, titles, seed=0)
            for address in (echo_target, target):
                _load(options, address, warming, seconds=3)  # warm, as a server in service
            measured: dict[str, list[dict[str, float]]] = {"ours": [], "echo": []}
            for seed in range(1, options.rounds + 1):
                requests = _requests(home, options, titles, seed)
                for name, address in (("echo", echo_target), ("ours", target)):
                    measured[name].append(_load(options, address, requests, options.seconds))
            before = psutil.Process(process.pid).cpu_times()
            last = _load(options, target, _requests(home, options, titles, options.rounds + 1), options.seconds)
            after = psutil.Process(process.pid).cpu_times()
        resident = psutil.Process(process.pid).memory_info().rss
        finding_ms = _one_by_one(target, titles, options)
    ours, prebuilt = (
        {at: round(statistics.median(each[at] for each in measured[name]), 2) for at in ("p50", "p95", "p99")}
        for name in ("ours", "echo")
    )
    return {
        "benchmark": "search",
        "calls_s": options.rate,
        "ours_ms": ours,
        "echo_ms": prebuilt,
        "ratio_p99": round(ours["p99"] / prebuilt["p99"], 1),
        "goal_p99_ms": GOAL_MS,
        "server_cpu_ms_a_call": round(
            (after.user + after.system - before.user - before.system) / last["calls"] * 1000, 2
        ),
        "one_by_one_ms": finding_ms,
        "rounds": measured,
        "server_rss_mib": round(resident / 2**20),
        "k": options.results,
        "users": options.users,
        "products": options.products,
        "interactions": options.interactions,
        "reply_bytes": reply.ByteSize(),
        "versions": {name: version(name) for name in ("grpcio", "tantivy", "rapidfuzz", "torch", "transformers")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with the load generator",
    }


def _requests(home: Path, options: argparse.Namespace, titles: list[str], seed: int) -> Path:
    """Write the requests of one load, each with a query of its own."""
    path = home / f"requests-{seed}.json"
    generator = np.random.default_rng(seed)
    made: dict[str, dict[str, Any]] = {}
    while len(made) < options.rate * options.seconds + 100:
        words = titles[generator.integers(len(titles))].split()
        chosen = generator.choice(words, min(len(words), int(generator.integers(1, 6))), replace=False).tolist()
        if generator.random() < 0.2 and len(chosen[0]) > 4:
            chosen[0] = chosen[0][:2] + chosen[0][3:]
        query = " ".join(chosen)
        request: dict[str, Any] = {
            "query": query,
            "user_id": f"user-{generator.integers(options.users):07}",
            "k": options.results,
        }
        if generator.random() < 0.25:
            request["filter"] = {"categories": [f"All > Category {generator.integers(CATEGORIES)}"]}
        made[query] = request
    path.write_text(json.dumps(list(made.values())))
    return path


def _load(options: argparse.Namespace, target: str, requests: Path, seconds: int) -> dict[str, float]:
    """Run ghz at the rate for a while; return latencies in ms, refusing a run with failed calls."""
    command = [options.ghz, "--insecure", "--proto", str(ROOT / "proto/kgrank/v1/ranking_service.proto")]
    command += ["--import-paths", str(ROOT / "proto"), "--call", CALL, "--data-file", str(requests)]
    command += ["--concurrency", str(CALLERS), "--connections", str(CONNECTIONS), "--format", "json"]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", "--rps", str(options.rate)]
    report = json.loads(subprocess.run([*command, target], check=True, capture_output=True, text=True).stdout)
    if set(report["statusCodeDistribution"]) != {"OK"}:
        raise SystemExit(f"calls failed: {report['statusCodeDistribution']} {report.get('errorDistribution')}")
    at = {each["percentage"]: round(each["latency"] / 1e6, 2) for each in report["latencyDistribution"]}
    return {"p50": at[50], "p95": at[95], "p99": at[99], "calls": report["count"]}


def _one_by_one(target: str, titles: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Return the latency of one caller's searches: new queries, and the same ones again."""
    import time

    took: dict[str, list[float]] = {"new_query": [], "known_query": []}
    with Client(target) as client:
        for title in titles[-200:]:
            for times in took.values():
                began = time.perf_counter()
                client.search(title, "user-0000007", k=options.results)
                times.append((time.perf_counter() - began) * 1000)
    return {name: round(statistics.median(each), 2) for name, each in took.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ghz", default=shutil.which("ghz"), help="path of ghz")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--graph", type=int, default=64, help="width of the graph component")
    parser.add_argument("--text", type=int, default=64, help="width of the text component")
    parser.add_argument("--results", type=int, default=10, help="k")
    parser.add_argument("--rate", type=int, default=50, help="calls a second")
    parser.add_argument("--seconds", type=int, default=30, help="length of a load")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.ghz is None:
        raise SystemExit("ghz is not on PATH: go install github.com/bojand/ghz/cmd/ghz@v0.120.0")
    return options


if __name__ == "__main__":
    main()
