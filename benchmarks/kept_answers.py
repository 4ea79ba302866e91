"""What it takes to give an answer again, and what looking for it adds where there is none.

    python -m benchmarks.kept_answers [--products 12000] [--calls 2000] [--rounds 5]

The service itself is called, without the network, one call at a time: `off` keeps no answers, `miss` asks for another
user each time, `hit` for users that were asked for just before; `reasons` the same with reasons. All three run in turns
on one engine. Told is the processor time of a call, in microseconds, the median of the rounds; and the least share of
repeated calls from which on keeping pays. Prints one JSON line.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import torch

from benchmarks.synthetic_shop import make_home
from kgrank.v1.ranking_service_pb2 import RecommendRequest
from server.attribution import Attribution
from server.config import ServeSettings
from server.contract import Limits
from server.engine_loading import Places
from server.journal import Journal
from server.kept_answers import KeptAnswers
from server.models import ModelFolder
from server.searches import SearchLog
from server.services.ranking import RankingService
from server.serving import Serving
from server.traffic import Traffic

KEPT_BYTES = 256 << 20


def main() -> None:
    """Measure, and print one JSON line."""
    options = _options()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = Path(folder)
        make_home(
            home,
            users=2 * options.products,
            products=options.products,
            interactions=10 * options.products,
            graph=128,
            text=128,
        )
        print(json.dumps(asyncio.run(_measure(options, home))))


async def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    places = Places(ModelFolder(home / "artifacts"), home / "snapshots", home / "cache")
    serving = Serving(ServeSettings(search=False), places)
    journal = Journal(home / "journal.db", lambda events: None, lambda user_id, left: None)
    (folder,) = (path for path in (home / "artifacts").iterdir() if path.is_dir())
    await serving.change_traffic(lambda _: Traffic(folder.name), journal)
    searches, attribution = SearchLog(None, lambda: None, None, 1), Attribution(None, serving.versions)
    service = RankingService(serving, Limits(1000, 10_000), searches, attribution)
    off, on = KeptAnswers(0), KeptAnswers(KEPT_BYTES)
    told = {}
    for name, count, reasons in (("plain", options.calls, False), ("reasons", options.calls // 20, True)):
        taken: dict[str, list[float]] = {"off": [], "miss": [], "hit": []}
        for number in range(options.rounds):
            # Users of whom the engine has a vector, as of most who come again.
            asked = [
                RecommendRequest(user_id=f"user-{(number * count + each) % (2 * options.products):07}", k=10)
                for each in range(count)
            ]
            for request in asked:
                request.include_reasons = reasons
            on.clear()
            for way, kept in (("off", off), ("miss", on), ("hit", on)):
                serving.kept = kept
                taken[way].append(await _call_us(service, asked))
        us = {way: statistics.median(each) for way, each in taken.items()}
        pays_from = max(0.0, us["miss"] - us["off"]) / (us["miss"] - us["hit"])
        told[name] = {**{f"{way}_us": round(each, 1) for way, each in us.items()}, "pays_from": round(pays_from, 3)}
    serving.close()
    journal.close()
    return {
        "benchmark": "kept_answers",
        **told,
        "calls": options.calls,
        "products": options.products,
        "versions": {name: version(name) for name in ("kgrank", "torch", "protobuf")},
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
    }


async def _call_us(service: RankingService, requests: Sequence[RecommendRequest]) -> float:
    """Return the processor time of a call, of all threads."""
    began = time.process_time()
    for request in requests:
        await service.Recommend(request, None)  # type: ignore[arg-type]  # it looks at no context
    return 1e6 * (time.process_time() - began) / len(requests)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=12_000)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
