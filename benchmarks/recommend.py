"""Recommend over gRPC against an echo: calls per second, latency, recall and memory of the real server.

    python -m benchmarks.recommend [--graph 64 --text 64] [--results 100] [--seconds 8] [--rounds 3] [--home HOME]

Ours is `kgrank serve` over a synthetic shop; the echo is the same kind of server (grpc.aio) that returns one of ours'
replies as prebuilt bytes. Both get the same requests from ghz, with the same settings, in turns. Prints one JSON line.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
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
from kgrank.client import Client

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
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    # Other users in every load: the server keeps a user's vector for an hour, as it does in service.
    asked = _requests(home, options)
    how = {"seconds": options.seconds, "callers": CALLERS, "connections": CONNECTIONS}
    with server(home, core=options.server_core, KGRANK_SERVE__SEARCH="false") as (target, process):
        with Client(target, timeout_s=60) as client:
            recall = _recall(client, home, options)
            reply = client.recommend("user-0000001", k=options.results).SerializeToString()
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
    }


def _requests(home: Path, options: argparse.Namespace) -> Iterator[Path]:
    """Write the requests of one load after another: users drawn evenly, the worst case for whatever is kept of them."""
    for seed in range(1000):
        drawn = np.random.default_rng(seed).integers(options.users, size=ASKED_USERS)
        yield write_requests(
            home / f"requests-{seed}.json",
            [{"user_id": f"user-{user:07}", "k": options.results} for user in drawn.tolist()],
        )


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


if __name__ == "__main__":
    main()
