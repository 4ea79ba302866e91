"""Recommend with two server processes on one port, over one; calls a second and processor time a call.

    python -m benchmarks.processes [--seconds 8] [--rounds 3] [--results 10] [--home HOME]

Each process scores with one thread. Both sorts run in turn, on the same shop, with 64 callers on 16 connections, which
the kernel spreads over the processes. Where the load generator takes a core of its own, what two can gain is bounded by
the cores that are left: the processor time a call says what a machine of their own would give. Prints one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import psutil

from benchmarks.server_load import (
    RANKING,
    Load,
    load_options,
    load_sizes,
    parsed,
    recommend_requests,
    run_load,
    server,
    shop,
)

CALL = f"{RANKING}/Recommend"
CALLERS, CONNECTIONS, REQUESTS = 64, 16, 20_000


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    parser.add_argument("--results", type=int, default=10, help="k")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3, help="how often each sort runs; the median is told")
    options = parsed(parser)
    with shop(options) as home:
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    requests = recommend_requests(home, options, REQUESTS)
    rounds: dict[int, list[tuple[Load, float]]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for count, measured in rounds.items():
            measured.append(_load(options, home, requests, count))
    median = {count: statistics.median(load.rps for load, _ in measured) for count, measured in rounds.items()}
    cpu_ms = {count: statistics.median(cpu for _, cpu in measured) for count, measured in rounds.items()}
    one, two = cpu_ms[1], cpu_ms[2]
    cores = os.cpu_count() or 1
    return {
        "benchmark": "processes",
        "one_calls_s": round(median[1]),
        "two_calls_s": round(median[2]),
        "two_over_one": round(median[2] / median[1], 2),
        "rounds_calls_s": {count: [round(load.rps) for load, _ in measured] for count, measured in rounds.items()},
        "p99_ms": {count: statistics.median(load.ms["p99"] for load, _ in each) for count, each in rounds.items()},
        "server_cpu_ms_a_call": {"one": round(one, 3), "two": round(two, 3)},
        # If nothing but processor time bound it: each core gives a second of it every second.
        "calls_s_by_cpu_on_own_cores": {"one": round(1000 / one), "two": round(2000 / two), "cores_here": cores},
        "k": options.results,
        **load_sizes(options),
    }


def _load(options: argparse.Namespace, home: Path, requests: Path, count: int) -> tuple[Load, float]:
    """Return a load on so many processes, and the processor time that a call took them together, in ms."""
    settings = {"KGRANK_SERVE__SEARCH": "false", "KGRANK_SERVE__THREADS": "1"}
    how: dict[str, Any] = {"callers": CALLERS, "connections": CONNECTIONS}
    with server(home, "--processes", str(count), **settings) as (target, running):
        run_load(options, target, CALL, requests, seconds=2, **how)
        before = _cpu_s(running)
        load = run_load(options, target, CALL, requests, seconds=options.seconds, **how)
        return load, 1000 * (_cpu_s(running) - before) / load.calls


def _cpu_s(running: "subprocess.Popen[str]") -> float:
    parent = psutil.Process(running.pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
