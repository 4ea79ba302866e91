"""Rank given candidates at a steady rate: latency of 100 and of 300 candidates, products in memory.

    python -m benchmarks.rank [--rate 200] [--seconds 15] [--home HOME]

Beside it, in the same run, the time of an echo of as many bytes at the same rate: what gRPC and the machine take by
themselves. Prints one JSON line.
"""

import argparse
import json
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
    run_load,
    server,
    shop,
    tied_option,
    write_requests,
)
from kgrank.client import Client

CANDIDATES = (100, 300)
GOAL_P99_MS = {100: 5, 300: 8}
REQUESTS = 2000


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    tied_option(parser)
    parser.add_argument("--rate", type=int, default=200, help="calls a second")
    parser.add_argument("--seconds", type=int, default=15, help="length of a load")
    options = parsed(parser)
    with (
        shop(options) as home,
        server(home, core=options.server_core, KGRANK_SERVE__SEARCH="false") as (target, process),
    ):
        measured = {str(count): _measure(options, home, target, process, count) for count in CANDIDATES}
    print(json.dumps({"benchmark": "rank", "candidates": measured, "calls_s": options.rate, **load_sizes(options)}))


def _measure(options: argparse.Namespace, home: Path, target: str, process: Any, count: int) -> dict[str, Any]:
    generator = np.random.default_rng(count)
    requests = write_requests(
        home / f"rank-{count}.json",
        [
            {
                "user_id": f"user-{user:07}",
                "product_ids": [f"product-{each:07}" for each in generator.integers(options.products, size=count)],
            }
            for user in generator.integers(options.users, size=REQUESTS)
        ],
    )
    first = json.loads(requests.read_text())[0]
    with Client(target, timeout_s=60) as client:
        reply = client.rank(first["user_id"], first["product_ids"]).SerializeToString()
    payload = home / f"reply-{count}.bin"
    payload.write_bytes(reply)
    how = {"seconds": options.seconds, "callers": 8, "rate": options.rate}
    asked = write_requests(home / f"echo-{count}.json", [{"user_id": "user-0000001"}])
    first_calls = how | {"seconds": 2}  # they fill caches
    with echo(payload) as (echo_target, _):
        run_load(options, target, f"{RANKING}/Rank", requests, **first_calls)
        run_load(options, echo_target, f"{RANKING}/Recommend", asked, **first_calls)
        before = cpu_s(process)
        ours = run_load(options, target, f"{RANKING}/Rank", requests, **how)
        taken = (cpu_s(process) - before) / ours.calls
        beside = run_load(options, echo_target, f"{RANKING}/Recommend", asked, **how)
    return {
        "ours_ms": ours.ms,
        "echo_ms": beside.ms,
        "goal_p99_ms": GOAL_P99_MS[count],
        "server_cpu_us_a_call": round(taken * 1e6),
        "reply_bytes": len(reply),
    }


if __name__ == "__main__":
    main()
