"""Explain over gRPC: latency of a score's components, place and reasons, and of its steps.

    python -m benchmarks.explain [--calls 300] [--home HOME]

One caller at a time, users and their best products drawn evenly. The steps are timed in this process, on the same shop.
Prints one JSON line.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import server, shop, shop_options, sizes
from kgrank.client import Client

GOAL_P99_MS = 10


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shop_options(parser)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    with shop(options) as home:
        asked = []
        with server(home, KGRANK_SERVE__SEARCH="false") as (target, _), Client(target, timeout_s=60) as client:
            users = _users(home, options.calls)
            for user in users:
                best = client.recommend(user, k=5).results
                asked += [(user, best[len(asked) % len(best)].product_id)] if best else []
            taken, reasons = [], 0
            for user, product in asked:
                began = time.perf_counter()
                reasons += len(client.explain(user, product).result.reasons)
                taken.append((time.perf_counter() - began) * 1000)
        steps = _steps(home, asked)
    print(
        json.dumps(
            {
                "benchmark": "explain",
                "ours_ms": _percentiles(taken),
                "goal_p99_ms": GOAL_P99_MS,
                "steps_ms": {name: _percentiles(each) for name, each in steps.items()},
                "reasons_each": round(reasons / len(asked), 2),
                "calls": len(asked),
                **sizes(options),
            }
        )
    )


def _percentiles(taken_ms: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(float(np.percentile(taken_ms, percent)), 2) for percent in (50, 95, 99)}


def _users(home: Path, count: int) -> list[str]:
    from kg.snapshot import Snapshot

    snapshot = _snapshot(Snapshot, home)
    return snapshot.users.ids(np.random.default_rng(3).choice(len(snapshot.users), count, replace=False))


def _snapshot(kind: Any, home: Path) -> Any:
    return kind.open(next(path for path in (home / "snapshots").iterdir() if path.is_dir()), verify=False)


def _steps(home: Path, asked: list[tuple[str, str]]) -> dict[str, list[float]]:
    """Return milliseconds of what looking for reasons does, by step."""
    import torch

    from kg.paths import Reasoner
    from kg.snapshot import Snapshot
    from model.artifact import load_artifact
    from model.counterfactual import score_drops, strengths
    from server.user_graph import with_compiled_users

    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # as the server does
    snapshot = _snapshot(Snapshot, home)
    artifact = load_artifact(next(path for path in (home / "artifacts").iterdir() if path.is_dir()))
    scorer = with_compiled_users(artifact.scorer, home / "cache")
    reasoner = Reasoner(snapshot, artifact.relation_weights)
    steps: dict[str, list[float]] = defaultdict(list)
    for user, product in asked:
        index, candidate = snapshot.users.index(user), snapshot.products.index(product)
        history = snapshot.histories.take(np.array([index]))
        times = [time.perf_counter()]
        around = reasoner.surroundings(history.product_index, history.type, index)
        times.append(time.perf_counter())
        paths = reasoner.paths(around, candidate)
        times.append(time.perf_counter())
        starts = list(dict.fromkeys(path.start for path in paths))[:6]
        drops = score_drops(scorer, history, snapshot.as_of_ms, starts, np.array([candidate]))
        times.append(time.perf_counter())
        strong = dict(zip(starts, strengths(drops)[:, 0].tolist(), strict=True))
        reasoner.reasons(around, candidate, paths=paths, strength=strong)
        times.append(time.perf_counter())
        for name, milliseconds in zip(("look around", "paths", "weigh", "tell"), np.diff(times) * 1000, strict=True):
            steps[name].append(float(milliseconds))
    return steps


if __name__ == "__main__":
    main()
