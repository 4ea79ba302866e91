"""Recommend over gRPC against an echo: calls per second, latency, recall and memory of the real server.

    python -m benchmarks.recommend [--graph 64 --text 64] [--results 100] [--seconds 8] [--rounds 3] [--home HOME]

Ours is `kgrank serve` over a synthetic shop; the echo is the same kind of server (grpc.aio) that returns one of ours'
replies as prebuilt bytes. Both get the same requests from ghz, with the same settings, in turns. Prints one JSON line.

The synthetic shop's model is graph, text and popularity; one that was trained has neighbours besides, some thousand
products for each user. `--home` takes any home that holds a model, a shop's own too: its users are asked.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import (
    RANKING,
    cpu_s,
    echo,
    load_options,
    load_sizes,
    parsed,
    rss_mib,
    run_load,
    server,
    shop,
    tied_option,
    write_requests,
)
from kg.latest import latest_in
from kg.snapshot import Snapshot
from kgrank.client import Client
from model.artifact import Artifact, load_artifact
from model.scoring import full_scores
from server.engine import STALE_MS

CALL = f"{RANKING}/Recommend"
CALLERS, CONNECTIONS = 32, 4
ASKED_USERS = 20_000
RECALL_USERS = 300


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    tied_option(parser)
    parser.add_argument("--results", type=int, default=100, help="k")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parsed(parser)
    with shop(options) as home:
        print(json.dumps(_measure(options, home, _served(home))))


@dataclass(frozen=True)
class _Served:
    """What the home's server ranks, for whom and as of when."""

    snapshot: Snapshot
    artifact: Artifact
    now_ms: int

    def drawn(self, count: int, seed: int) -> list[str]:
        """Return ids of users, drawn evenly."""
        return self.snapshot.users.ids(np.random.default_rng(seed).integers(len(self.snapshot.users), size=count))

    def sizes(self) -> dict[str, Any]:
        """Return what a report says of it."""
        counts = {name: len(getattr(self.snapshot, name)) for name in ("users", "products")}
        interactions = len(self.snapshot.histories.product_index)
        return counts | {"interactions": interactions, "dimensions": self.artifact.scorer.matrix.shape[1]}


def _served(home: Path) -> _Served:
    folders = [home / "snapshots", home / "artifacts"]
    snapshots, artifacts = (
        latest_in(folder) or next(path for path in sorted(folder.iterdir()) if path.is_dir()) for folder in folders
    )
    snapshot, now_ms = Snapshot.open(snapshots), time.time_ns() // 1_000_000
    stale = now_ms - snapshot.as_of_ms > STALE_MS  # ranked as of then
    return _Served(snapshot, load_artifact(artifacts), snapshot.as_of_ms if stale else now_ms)


def _measure(options: argparse.Namespace, home: Path, served: _Served) -> dict[str, Any]:
    # Other users in every load: the server keeps a user's vector for an hour, as it does in service.
    asked = _requests(home, options, served)
    how = {"seconds": options.seconds, "callers": CALLERS, "connections": CONNECTIONS}
    with server(home, core=options.server_core, KGRANK_SERVE__SEARCH="false") as (target, process):
        with Client(target, timeout_s=60) as client:
            recall = _recall(client, options, served)
            (anybody,) = served.drawn(1, 0)
            reply = client.recommend(anybody, k=options.results).SerializeToString()
        payload = home / "reply.bin"
        payload.write_bytes(reply)
        with echo(payload) as (echo_target, echo_process):
            rates: dict[str, list[float]] = {"ours": [], "echo": []}
            cpu_us: dict[str, list[float]] = {"ours": [], "echo": []}
            for requests in islice(asked, options.rounds):
                for name, address, running in (("echo", echo_target, echo_process), ("ours", target, process)):
                    before = cpu_s(running)
                    loaded = run_load(options, address, CALL, requests, **how)
                    rates[name].append(loaded.rps)
                    cpu_us[name].append((cpu_s(running) - before) / loaded.calls * 1e6)
            ours, prebuilt = statistics.median(rates["ours"]), statistics.median(rates["echo"])
            half = run_load(options, target, CALL, next(asked), rate=int(ours / 2), **how)
            half_echo = run_load(options, echo_target, CALL, next(asked), rate=int(ours / 2), **how)
        resident = rss_mib(process)
    taken = {name: round(statistics.median(each)) for name, each in cpu_us.items()}
    return {
        "benchmark": "recommend",
        "ours_calls_s": round(ours),
        "echo_calls_s": round(prebuilt),
        "ratio": round(ours / prebuilt, 3),
        "server_cpu_us_a_call": taken,
        "ratio_of_cpu": round(taken["echo"] / taken["ours"], 3),
        "recall_of_true_top": round(recall, 4),
        "half_load": {"ours_ms": half.ms, "echo_ms": half_echo.ms, "calls_s": int(ours / 2)},
        "rounds": {name: [round(rate) for rate in each] for name, each in rates.items()},
        "server_rss_mib": round(resident),
        "k": options.results,
        "reply_bytes": len(reply),
        "callers": CALLERS,
        "connections": CONNECTIONS,
        "users_asked_per_load": ASKED_USERS,
        **load_sizes(options),
        **served.sizes(),
    }


def _requests(home: Path, options: argparse.Namespace, served: _Served) -> Iterator[Path]:
    """Write the requests of one load after another: users drawn evenly, the worst case for whatever is kept of them."""
    for seed in range(1000):
        requests = [{"user_id": user_id, "k": options.results} for user_id in served.drawn(ASKED_USERS, seed)]
        yield write_requests(home / f"requests-{seed}.json", requests)


def _recall(client: Client, options: argparse.Namespace, served: _Served) -> float:
    """Return the share of the true top k, by scoring everything in float32, that the server returns."""
    snapshot, scorer = served.snapshot, served.artifact.scorer
    count = min(RECALL_USERS, len(snapshot.users))
    users = np.random.default_rng(12).choice(len(snapshot.users), count, replace=False)
    scores = full_scores(scorer, scorer.encode_users(snapshot.histories.take(users), np.full(count, served.now_ms)))
    for row, user in enumerate(users.tolist()):
        scores[row, snapshot.histories.product_index[snapshot.histories.rows(user)].astype(np.int64)] = -np.inf
    k = min(options.results, len(snapshot.products))
    truth = scores.topk(k, dim=1).indices.numpy()
    hits = 0
    for row, user_id in enumerate(snapshot.users.ids(users)):
        results = client.recommend(user_id, k=k, exclude_seen=True).results
        hits += len({result.product_id for result in results} & set(snapshot.products.ids(truth[row])))
    return hits / truth.size


if __name__ == "__main__":
    main()
