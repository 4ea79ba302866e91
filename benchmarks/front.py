"""What the front of the server costs a call: gate, token, metrics, traces, a line in the log.

    python -m benchmarks.front [--calls 4000] [--rounds 3]

Each server answers Recommend with the same prebuilt bytes, behind a front of one kind; `bare` is gRPC's own handler
without any. They are asked in turns; told is the server's processor time for one call, as the operating system counts
it. Prints one JSON line.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import platform
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import structlog

from kgrank.v1 import ranking_service_pb2
from server.access import tokens
from server.access.config import AccessSettings
from server.access.gate import Gate
from server.access.roles import Role
from server.rpc import Front, service_handler
from server.watch.config import WatchSettings
from server.watch.metrics import Metrics
from server.watch.traces import Traces

SERVICE = ranking_service_pb2.DESCRIPTOR.services_by_name["RankingService"]
METHOD = "/kgrank.v1.RankingService/Recommend"
REQUEST = ranking_service_pb2.RecommendRequest(user_id="user-0000001", k=10).SerializeToString()
ANSWER = b"x" * 600
KINDS = ("bare", "open", "token", "token, rate", "token, metrics", "token, metrics, traces of 1 in 100", "logged")
AT_ONCE = 16


class Echo:
    """Answers without work."""

    async def Recommend(self, request: object, context: object) -> bytes:  # noqa: N802
        """Return the prebuilt answer."""
        return ANSWER


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _, token = tokens.create(Path(folder) / "tokens.json", "benchmark", [Role.READ])
        microseconds = asyncio.run(_measure(Path(folder), token, options.calls, options.rounds))
    bare = microseconds["bare"]
    result = {
        "benchmark": "front",
        "calls": options.calls,
        "rounds": options.rounds,
        "server_cpu_us_per_call": microseconds,
        "above_bare_us": {kind: round(found - bare, 1) for kind, found in microseconds.items()},
        "grpc": grpc.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


async def _measure(folder: Path, token: str, calls: int, rounds: int) -> dict[str, float]:
    """Return the median processor time of a call, by kind of front."""
    spawn = multiprocessing.get_context("spawn")
    servers = {}
    for kind in KINDS:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(kind, str(folder), theirs), daemon=True)
        process.start()
        servers[kind] = (psutil.Process(process.pid), ours.recv(), ours, process)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_number in range(rounds + 1):
        for kind, (process, port, _, _) in servers.items():
            before = process.cpu_times()
            await _load(port, token, calls if round_number else calls // 4)
            after = process.cpu_times()
            if round_number:  # the first one warms up
                used_s = after.user + after.system - before.user - before.system
                found[kind].append(used_s / calls * 1e6)
    for _, _, ours, process in servers.values():
        ours.send("leave")
        process.join(10)
    return {kind: round(statistics.median(each), 1) for kind, each in found.items()}


async def _load(port: int, token: str, calls: int) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
        numbers = iter(range(calls))

        async def one_after_the_other() -> None:
            for _ in numbers:
                await call(REQUEST, metadata=metadata, timeout=30)

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


def _serve(kind: str, folder: str, told: Connection) -> None:
    asyncio.run(_run(kind, Path(folder), told))


async def _run(kind: str, folder: Path, told: Connection) -> None:
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory((folder / f"{kind}.log").open("w")),
        cache_logger_on_first_use=True,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (_bare() if kind == "bare" else service_handler(SERVICE, Echo(), _front(kind, folder)),)
    )
    told.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await asyncio.to_thread(told.recv)
    await server.stop(0)


def _bare() -> grpc.GenericRpcHandler:
    async def answer(request: Any, context: object) -> bytes:
        return ANSWER

    decode = ranking_service_pb2.RecommendRequest.FromString
    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=decode, response_serializer=bytes)
    return grpc.method_handlers_generic_handler(SERVICE.full_name, {"Recommend": handler})


def _front(kind: str, folder: Path) -> Front:
    parts = kind.split(", ")
    access = AccessSettings(
        required="token" in parts,
        tokens_file=folder / "tokens.json",
        calls_per_s=1e6 if "rate" in parts else 0,
    )
    traces = Traces.open(WatchSettings(traces_to="127.0.0.1:1")) if kind.endswith("100") else None
    return Front(
        gate=Gate(access),
        metrics=Metrics() if "metrics" in parts else None,
        traces=traces,
        log_calls=kind == "logged",
    )


if __name__ == "__main__":
    main()
