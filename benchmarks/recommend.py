"""Recommend over gRPC against an echo: calls per second, latency, recall and memory of the real server.

    python -m benchmarks.recommend [--graph 64 --text 64] [--results 10] [--seconds 8] [--rounds 3]

Ours is `kgrank serve` over a synthetic shop; the echo is the same kind of server (grpc.aio) that returns one of ours'
replies as prebuilt bytes. Both get the same requests from ghz (a load generator in Go; `--ghz`, or on PATH), with the
same settings, in turns. Prints one JSON line.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil

from benchmarks.synthetic_shop import make_home
from kgrank.client import Client
from kgrank.v1.ranking_service_pb2 import RecommendRequest

ROOT = Path(__file__).parent.parent
CALL = "kgrank.v1.RankingService/Recommend"
CALLERS, CONNECTIONS = 32, 4
ASKED_USERS = 20_000
RECALL_USERS = 300


def main() -> None:
    """Measure, and print one JSON line."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = Path(folder) / "home"
        make_home(
            home,
            users=options.users,
            products=options.products,
            interactions=options.interactions,
            graph=options.graph,
            text=options.text,
        )
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    # Other users in every load: the server keeps a user's vector for an hour, as it does in service.
    asked = (_requests(home, options, seed) for seed in range(1000))
    with _ours(home) as (target, process):
        with Client(target, timeout_s=60) as client:
            recall = _recall(client, home, options)
            reply = client.recommend("user-0000001", k=options.results).SerializeToString()
        payload = home / "reply.bin"
        payload.write_bytes(reply)
        with _echo(payload) as (echo, echo_process):
            rates: dict[str, list[float]] = {"ours": [], "echo": []}
            cpu_us: dict[str, list[float]] = {"ours": [], "echo": []}
            for requests in islice(asked, options.rounds):
                for name, address, running in (("echo", echo, echo_process), ("ours", target, process)):
                    before = _cpu_s(running)
                    loaded = _load(options, address, requests)
                    rates[name].append(loaded["rps"])
                    cpu_us[name].append((_cpu_s(running) - before) / loaded["calls"] * 1e6)
            ours, prebuilt = statistics.median(rates["ours"]), statistics.median(rates["echo"])
            half = _load(options, target, next(asked), rate=int(ours / 2))
            half_echo = _load(options, echo, next(asked), rate=int(ours / 2))
        resident = psutil.Process(process.pid).memory_info().rss
    return {
        "benchmark": "recommend",
        "ours_calls_s": round(ours),
        "echo_calls_s": round(prebuilt),
        "ratio": round(ours / prebuilt, 3),
        "server_cpu_us_a_call": {name: round(statistics.median(each)) for name, each in cpu_us.items()},
        "recall_of_true_top": round(recall, 4),
        "half_load": {"ours_ms": half["ms"], "echo_ms": half_echo["ms"], "calls_s": int(ours / 2)},
        "rounds": {name: [round(rate) for rate in each] for name, each in rates.items()},
        "server_rss_mib": round(resident / 2**20),
        "k": options.results,
        "users": options.users,
        "products": options.products,
        "interactions": options.interactions,
        "dimensions": options.graph + options.text + 1,
        "reply_bytes": len(reply),
        "callers": CALLERS,
        "connections": CONNECTIONS,
        "users_asked_per_load": ASKED_USERS,
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "torch", "numpy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with the load generator",
    }


def _requests(home: Path, options: argparse.Namespace, seed: int) -> Path:
    """Write the requests of one load: users drawn evenly, the worst case for whatever is kept of them."""
    path = home / f"requests-{seed}.json"
    drawn = np.random.default_rng(seed).integers(options.users, size=ASKED_USERS)
    path.write_text(json.dumps([{"user_id": f"user-{user:07}", "k": options.results} for user in drawn.tolist()]))
    return path


def _load(options: argparse.Namespace, target: str, requests: Path, rate: int = 0) -> dict[str, Any]:
    """Run ghz for a while; return calls per second and latencies, refusing a run with failed calls."""
    command = [options.ghz, "--insecure", "--proto", str(ROOT / "proto/kgrank/v1/ranking_service.proto")]
    command += ["--import-paths", str(ROOT / "proto"), "--call", CALL, "--data-file", str(requests)]
    command += ["--concurrency", str(CALLERS), "--connections", str(CONNECTIONS), "--format", "json"]
    command += ["--duration", f"{options.seconds}s", "--duration-stop", "wait", *(["--rps", str(rate)] if rate else [])]
    report = json.loads(subprocess.run([*command, target], check=True, capture_output=True, text=True).stdout)
    if set(report["statusCodeDistribution"]) != {"OK"}:
        raise SystemExit(f"calls failed: {report['statusCodeDistribution']} {report.get('errorDistribution')}")
    at = {each["percentage"]: round(each["latency"] / 1e6, 2) for each in report["latencyDistribution"]}
    return {"rps": report["rps"], "calls": report["count"], "ms": {"p50": at[50], "p99": at[99]}}


def _recall(client: Client, home: Path, options: argparse.Namespace) -> float:
    """Return the share of the true top k, by scoring everything in float32, that the server returns."""
    import time

    from kg.snapshot import Snapshot
    from model.artifact import load_artifact
    from model.scoring import full_scores

    snapshot = Snapshot.open(home / "snapshots" / "synthetic")
    artifact = load_artifact(next(path for path in (home / "artifacts").iterdir() if path.is_dir()))
    users = np.random.default_rng(12).choice(options.users, RECALL_USERS, replace=False)
    now_ms = np.full(RECALL_USERS, time.time_ns() // 1_000_000)
    scores = full_scores(artifact.scorer, artifact.scorer.encode_users(snapshot.histories.take(users), now_ms))
    for row, user in enumerate(users.tolist()):
        scores[row, snapshot.histories.product_index[snapshot.histories.rows(user)].astype(np.int64)] = -np.inf
    truth = scores.topk(options.results, dim=1).indices.numpy()
    hits = 0
    for row, user in enumerate(users.tolist()):
        results = client.recommend(f"user-{user:07}", k=options.results, exclude_seen=True).results
        hits += len({result.product_id for result in results} & set(snapshot.products.ids(truth[row])))
    return hits / truth.size


@contextmanager
def _ours(home: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "server.main", "serve", "--port", "0", "--no-graph", "--json"]
    with _process(command, os.environ | {"KGRANK_HOME": str(home)}) as process:
        yield json.loads(_line(process))["target"], process


@contextmanager
def _echo(payload: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with _process([sys.executable, "-m", "benchmarks.recommend", "--echo", str(payload)], os.environ) as process:
        yield _line(process).strip(), process


def _cpu_s(process: "subprocess.Popen[str]") -> float:
    """Return the processor time that a process has taken; unlike calls a second, a busy machine hardly changes it."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


@contextmanager
def _process(command: list[str], environment: Any) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended with {process.wait()}")
    return line


async def _serve_echo(reply: bytes) -> None:
    async def recommend(request: RecommendRequest, context: Any) -> bytes:
        return reply

    handler = grpc.unary_unary_rpc_method_handler(recommend, request_deserializer=RecommendRequest.FromString)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service, method = CALL.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--echo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ghz", default=shutil.which("ghz"), help="path of ghz")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--graph", type=int, default=64, help="width of the graph component")
    parser.add_argument("--text", type=int, default=64, help="width of the text component")
    parser.add_argument("--results", type=int, default=10, help="k")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.echo is not None:
        asyncio.run(_serve_echo(options.echo.read_bytes()))
        sys.exit()
    if options.ghz is None:
        raise SystemExit("ghz is not on PATH: go install github.com/bojand/ghz/cmd/ghz@v0.120.0")
    return options


if __name__ == "__main__":
    main()
