"""WriteEvent, acknowledged on disk: events a second and latency with many callers.

    python -m benchmarks.events [--callers 64] [--seconds 10] [--rounds 3] [--home HOME]

Every event is another one, of another user and product. Beside it, in the same run, an echo with as many callers (what
gRPC takes by itself), and SQLite alone, committing batches of events as large as the journal did (what the disk takes).
Prints one JSON line.
"""

import argparse
import json
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import (
    EVENTS,
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

REQUESTS = 20_000
GOAL_EVENTS_S, GOAL_P99_MS = 2000, 30


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    tied_option(parser)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=10, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parsed(parser)
    with shop(options) as home:
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    users, products = (generator.integers(size, size=REQUESTS) for size in (options.users, options.products))
    # Without an event_id the server gives each a new one, so that no event of a repeated request is a duplicate.
    requests = write_requests(
        home / "events.json",
        [
            {"event": {"user_id": f"user-{user:07}", "product_id": f"product-{product:07}", "type": 5}}
            for user, product in zip(users.tolist(), products.tolist(), strict=True)
        ],
    )
    asked = write_requests(home / "echo.json", [{"user_id": "user-0000001"}])
    payload = home / "reply.bin"
    payload.write_bytes(bytes(60))
    how = {"seconds": options.seconds, "callers": options.callers, "connections": 8}
    rates: dict[str, list[float]] = {"ours": [], "echo": []}
    p99: list[float] = []
    taken: list[float] = []
    with (
        server(home, core=options.server_core, KGRANK_SERVE__SEARCH="false") as (target, process),
        echo(payload) as (echo_target, _),
    ):
        for _ in range(options.rounds):
            before = cpu_s(process)
            ours = run_load(options, target, f"{EVENTS}/WriteEvent", requests, **how)
            taken.append((cpu_s(process) - before) / ours.calls * 1e6)
            rates["ours"].append(ours.rps)
            p99.append(ours.ms["p99"])
            rates["echo"].append(run_load(options, echo_target, f"{RANKING}/Recommend", asked, **how).rps)
    events_s = statistics.median(rates["ours"])
    return {
        "benchmark": "events",
        "ours_events_s": round(events_s),
        "ours_p99_ms": statistics.median(p99),
        "goal": {"events_s": GOAL_EVENTS_S, "p99_ms": GOAL_P99_MS},
        "echo_calls_s": round(statistics.median(rates["echo"])),
        "sqlite_alone_events_s": round(_sqlite(home / "alone.db", options.callers)),
        "server_cpu_us_a_call": round(statistics.median(taken)),
        "rounds": {name: [round(rate) for rate in each] for name, each in rates.items()},
        "callers": options.callers,
        **load_sizes(options),
    }


def _sqlite(path: Path, together: int) -> float:
    """Return how many rows a second SQLite commits to the same disk, so many in one transaction, fully synced."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, name TEXT UNIQUE, at INTEGER)")
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO event (name, at) VALUES (?, ?)", ((f"event-{rows + each}", each) for each in range(together))
        )
        connection.execute("COMMIT")
        rows += together
    connection.close()
    return rows / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
