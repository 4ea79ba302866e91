"""Twice the capacity offered to Recommend: goodput, how quickly the rest is refused, and how soon all is well again.

    python -m benchmarks.overload [--seconds 8] [--results 10] [--home HOME]

Capacity is what 64 callers get, each waiting for its answer. Then twice as many calls a second come whether or not
answers do, then half of capacity. Prints one JSON line.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import (
    RANKING,
    ghz_command,
    load_options,
    load_sizes,
    parsed,
    read_load,
    recommend_requests,
    run_load,
    server,
    shop,
)

CALL = f"{RANKING}/Recommend"
CALLERS, REQUESTS = 64, 20_000
TIMEOUT_S = 2.0
RECOVERY_S = 5


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    parser.add_argument("--results", type=int, default=10, help="k")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--max-waiting", type=int, default=0, help="serve.max_waiting; 0: its default")
    options = parsed(parser)
    with shop(options) as home:
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    requests = recommend_requests(home, options, REQUESTS)
    limit = {"KGRANK_SERVE__MAX_WAITING": str(options.max_waiting)} if options.max_waiting else {}
    with server(home, KGRANK_SERVE__SEARCH="false", **limit) as (target, _):
        how = {"seconds": options.seconds, "callers": CALLERS, "connections": 8, "timeout_s": TIMEOUT_S}
        run_load(options, target, CALL, requests, **how | {"seconds": 2})
        capacity = run_load(options, target, CALL, requests, **how)
        command = ghz_command(
            options, target, CALL, requests, **how | {"rate": int(2 * capacity.rps), "asynchronous": True}
        )
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        over = read_load(output)
        details = json.loads(output)["details"] or []
        half = {**how, "seconds": 1, "rate": max(1, int(capacity.rps / 2))}
        after = [run_load(options, target, CALL, requests, may_fail=True, **half) for _ in range(RECOVERY_S)]
    return {
        "benchmark": "overload",
        "capacity_calls_s": round(capacity.rps),
        "offered_calls_s": int(2 * capacity.rps),
        "sent_calls_s": round(over.rps),
        "goodput_calls_s": round(over.ok_s),
        "goodput_of_capacity": round(over.ok_s / capacity.rps, 3),
        "codes": over.codes,
        "answered_ms": _percentiles(details, "OK"),
        "refused_ms": _percentiles(details, "ResourceExhausted"),
        "seconds_to_recover": next((second for second, each in enumerate(after, 1) if set(each.codes) == {"OK"}), None),
        "after_ms": [each.ms.get("p99") for each in after],
        "k": options.results,
        **load_sizes(options),
    }


def _percentiles(details: list[dict[str, Any]], status: str) -> dict[str, float] | None:
    taken = [each["latency"] / 1e6 for each in details if each["status"] == status]
    return {f"p{percent}": round(float(np.percentile(taken, percent)), 1) for percent in (50, 99)} if taken else None


if __name__ == "__main__":
    main()
