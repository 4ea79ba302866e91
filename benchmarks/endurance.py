"""A long load at 80 % of capacity with a hot swap in every minute: errors, memory, latency.

    python -m benchmarks.endurance [--minutes 30] [--minute 60] [--results 10] [--home HOME]

Without `--minutes` it runs for two, which shows that it works; thirty are the real thing. Two models are swapped in by
turns while calls go on, and events are written. Memory is read at the end of each minute; how much it has grown is told
from the third minute on, so of four minutes or more. Prints one JSON line.
"""

import argparse
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_load import (
    RANKING,
    load_options,
    load_sizes,
    parsed,
    recommend_requests,
    rss_mib,
    run_load,
    server,
    shop,
)
from kgrank.client import Client, event

CALL = f"{RANKING}/Recommend"
CALLERS, REQUESTS, EVENTS = 32, 20_000, 200
SHARE = 0.8
GOAL_MEMORY = 0.03


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load_options(parser)
    parser.add_argument("--results", type=int, default=10, help="k")
    parser.add_argument("--minutes", type=int, default=2, help="how many minutes")
    parser.add_argument("--minute", type=float, default=60, help="seconds that a minute has; less for a trial")
    options = parsed(parser)
    with shop(options) as home:
        print(json.dumps(_measure(options, home)))


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    models = _two_models(home)
    requests = recommend_requests(home, options, REQUESTS)
    how: dict[str, Any] = {"callers": CALLERS, "may_fail": True}
    minutes: list[dict[str, Any]] = []
    with (
        server(home, KGRANK_SERVE__SEARCH="false") as (target, process),
        Client(target, timeout_s=options.minute) as client,
    ):
        capacity = run_load(options, target, CALL, requests, seconds=5, **how).rps
        for minute in range(options.minutes):
            swapping = threading.Thread(target=_swap, args=(client, models[minute % 2], options.products, minute))
            swapping.start()
            rate = int(SHARE * capacity)
            loaded = run_load(options, target, CALL, requests, seconds=options.minute, rate=rate, **how)
            swapping.join()
            minutes.append({"p99_ms": loaded.ms["p99"], "codes": loaded.codes, "rss_mib": round(rss_mib(process), 1)})
    # The first swaps load what both models share; from then on memory has no reason to grow.
    settled = [each["rss_mib"] for each in minutes[2:]]
    return {
        "benchmark": "endurance",
        "minutes": options.minutes,
        "seconds_of_a_minute": options.minute,
        "capacity_calls_s": round(capacity),
        "calls_s": int(SHARE * capacity),
        "failed_calls": sum(count for each in minutes for code, count in each["codes"].items() if code != "OK"),
        "calls": sum(count for each in minutes for count in each["codes"].values()),
        "memory_grown": round(settled[-1] / settled[0] - 1, 4) if len(settled) > 1 else None,
        "goal_memory": GOAL_MEMORY,
        "by_minute": minutes,
        "k": options.results,
        **load_sizes(options),
    }


def _two_models(home: Path) -> list[str]:
    """Return the shop's model, and the same one under another version: the price of a swap is the same."""
    folder = next(path for path in (home / "artifacts").iterdir() if path.is_dir())
    twin = folder.with_name(f"{folder.name}-twin")
    shutil.copytree(folder, twin)
    manifest = json.loads((twin / "manifest.json").read_text())
    manifest["model_version"] = twin.name
    (twin / "manifest.json").write_text(json.dumps(manifest))
    return [f"models/{twin.name}", f"models/{folder.name}"]


def _swap(client: Client, model: str, products: int, minute: int) -> None:
    drawn = np.random.default_rng(minute).integers(products, size=EVENTS).tolist()
    client.write_events([event(f"user-{product:07}", f"product-{product:07}", "purchase") for product in drawn])
    client.activate_model(model, timeout_s=600)


if __name__ == "__main__":
    main()
