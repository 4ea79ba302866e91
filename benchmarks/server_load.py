"""What the benchmarks of the server share: a server process over a synthetic shop, an echo, and ghz, a load generator
that isn't ours (`go install github.com/bojand/ghz/cmd/ghz@v0.120.0`)."""

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil
import uvloop

from benchmarks.synthetic_shop import make_home
from kgrank.v1 import ranking_service_pb2

ROOT = Path(__file__).parent.parent
RANKING = "kgrank.v1.RankingService"
EVENTS = "kgrank.v1.EventService"
_OF_A_HOME = ("snapshots", "artifacts")


@dataclass(frozen=True)
class Load:
    """What a load came to: calls a second, milliseconds by percentile, calls by status code."""

    rps: float
    calls: int
    ms: dict[str, float]
    codes: dict[str, int]

    @property
    def ok_s(self) -> float:
        """Calls a second that succeeded."""
        return self.rps * self.codes.get("OK", 0) / max(1, self.calls)


def load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the shop, and of ghz."""
    shop_options(parser)
    parser.set_defaults(tied=False)
    parser.add_argument("--ghz", default=shutil.which("ghz"), help="path of ghz")
    parser.add_argument(
        "--apart", action="store_true", help="ghz has the last core for itself, as a caller on another host would"
    )


def tied_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tied`, for benchmarks of one server process."""
    parser.add_argument("--tied", action="store_true", help="the server keeps to the first core, all else runs freely")


def shop_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the shop."""
    parser.add_argument(
        "--home",
        type=Path,
        help="a shop that `--keep` has left, instead of a new one; recommend.py takes any home with a model",
    )
    parser.add_argument("--keep", type=Path, help="make the shop here, and leave it")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--graph", type=int, default=64, help="width of the graph component")
    parser.add_argument("--text", type=int, default=64, help="width of the text component")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options, or say what is missing; whatever starts from here on leaves ghz its core."""
    options = parser.parse_args()
    if options.ghz is None:
        raise SystemExit("ghz is not on PATH: go install github.com/bojand/ghz/cmd/ghz@v0.120.0")
    asked = "--apart" if options.apart else "--tied" if options.tied else ""
    first, *others = sorted(os.sched_getaffinity(0))
    if asked and not others:
        raise SystemExit(f"{asked} needs two cores, and there is one")
    if asked and shutil.which("taskset") is None:
        raise SystemExit(f"{asked} needs taskset, of util-linux, on PATH")
    options.ghz_core = others[-1] if options.apart else None
    options.server_core = first if options.tied else None
    if options.apart:
        os.sched_setaffinity(0, [first, *others[:-1]])
    return options


@contextmanager
def shop(options: argparse.Namespace) -> Iterator[Path]:
    """Yield a home folder with a snapshot and an artifact; requests and journals go to a folder beside it."""
    if options.home is not None:
        _check_home(options.home)
    with tempfile.TemporaryDirectory(prefix="kgrank-benchmark-") as folder:
        home = options.home or options.keep or Path(folder) / "home"
        if options.home is None:
            make_home(
                home,
                users=options.users,
                products=options.products,
                interactions=options.interactions,
                graph=options.graph,
                text=options.text,
            )
        work = Path(folder) / "work"
        work.mkdir()
        for name in _OF_A_HOME:
            shutil.copytree(home / name, work / name, copy_function=os.link if options.home is None else shutil.copy2)
        yield work


def _check_home(home: Path) -> None:
    for name in _OF_A_HOME:
        folder = home / name
        if not folder.is_dir() or not any(each.is_dir() for each in folder.iterdir()):
            how = "make a shop with --keep, or a model with `kgrank snapshot` and `kgrank train`"
            raise SystemExit(f"--home {home}: there are no {name} in it; {how}")


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every report says of shop, versions and machine."""
    return {
        "users": options.users,
        "products": options.products,
        "interactions": options.interactions,
        "dimensions": options.graph + options.text + 2,  # popularity, and what is new
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "torch", "numpy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def load_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Return `sizes`, and who kept to which core."""
    kept = {"server": options.server_core, "load_generator": options.ghz_core}
    return sizes(options) | {"cores": {name: "any" if core is None else core for name, core in kept.items()}}


def write_requests(path: Path, requests: Sequence[dict[str, Any]]) -> Path:
    """Write the requests that ghz sends by turns."""
    path.write_text(json.dumps(list(requests)))
    return path


def recommend_requests(home: Path, options: argparse.Namespace, count: int) -> Path:
    """Write Recommend requests of users drawn by chance, the same ones each time."""
    drawn = np.random.default_rng(5).integers(options.users, size=count)
    requests = [{"user_id": f"user-{user:07}", "k": options.results} for user in drawn.tolist()]
    return write_requests(home / "requests.json", requests)


def ghz_command(
    options: argparse.Namespace,
    target: str,
    call: str,
    requests: Path,
    *,
    seconds: float,
    callers: int,
    connections: int = 4,
    rate: int = 0,
    timeout_s: float = 20,
    asynchronous: bool = False,
) -> list[str]:
    """Return the command of a load."""
    service = call.rpartition("/")[0].rpartition(".")[2]
    file = {"RankingService": "ranking_service", "EventService": "event_service"}[service]
    command = [*_on_core(options.ghz_core), options.ghz, "--insecure"]
    command += ["--proto", str(ROOT / f"proto/kgrank/v1/{file}.proto")]
    command += ["--import-paths", str(ROOT / "proto"), "--call", call, "--data-file", str(requests)]
    command += ["--concurrency", str(callers), "--connections", str(connections), "--format", "json"]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", "--timeout", f"{timeout_s}s"]
    command += ["--rps", str(rate)] if rate else []
    command += ["--async"] if asynchronous else []
    return [*command, target]


def _on_core(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "--cpu-list", str(core)]


def read_load(output: str) -> Load:
    """Return what ghz reports."""
    report = json.loads(output)
    at = {f"p{each['percentage']}": round(each["latency"] / 1e6, 2) for each in report["latencyDistribution"] or ()}
    return Load(report["rps"], report["count"], at, dict(report["statusCodeDistribution"]))


def run_load(
    options: argparse.Namespace, target: str, call: str, requests: Path, *, may_fail: bool = False, **how: Any
) -> Load:
    """Run ghz for a while; a run with failed calls ends the benchmark unless they are expected."""
    command = ghz_command(options, target, call, requests, **how)
    loaded = read_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if not may_fail and set(loaded.codes) != {"OK"}:
        raise SystemExit(f"calls failed: {loaded.codes}")
    return loaded


def cpu_s(process: "subprocess.Popen[str]") -> float:
    """Return the processor time that a process has taken; unlike calls a second, a busy machine hardly changes it."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def rss_mib(process: "subprocess.Popen[str]") -> float:
    """Return the memory that a process holds."""
    return psutil.Process(process.pid).memory_info().rss / 2**20


@contextmanager
def server(
    home: Path, *arguments: str, core: int | None = None, keeping: bool = False, **settings: str
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `kgrank serve` over a home, on one core where it is given; yield its address and process once it serves.

    It keeps no answers unless it is to go on `keeping` them: where the generator sends the same requests again and
    again, what they take is what is measured.
    """
    kept = {} if keeping else {"KGRANK_SERVE__KEPT_ANSWERS_MIB": "0"}
    command = [*_on_core(core), sys.executable, "-m", "server.main", "serve"]
    command += ["--port", "0", "--no-graph", "--json", *arguments]
    with process(command, os.environ | {"KGRANK_HOME": str(home)} | kept | settings) as running:
        yield json.loads(_line(running))["target"], running


@contextmanager
def echo(payload: Path, method: str = "Recommend") -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a server that answers every call of a method with the same bytes."""
    with process([sys.executable, "-m", "benchmarks.server_load", method, str(payload)], os.environ) as running:
        yield _line(running).strip(), running


@contextmanager
def process(command: list[str], environment: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a process until the block ends."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)


def _line(running: "subprocess.Popen[str]") -> str:
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise SystemExit(f"{running.args} ended with {running.wait()}")
    return line


async def _serve_echo(method: str, reply: bytes) -> None:
    async def answer(request: object, context: Any) -> bytes:
        return reply

    read = getattr(ranking_service_pb2, f"{method}Request").FromString
    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=read)
    answering = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    answering.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(RANKING, {method: handler}),))
    port = answering.add_insecure_port("127.0.0.1:0")
    await answering.start()
    print(f"127.0.0.1:{port}", flush=True)
    await answering.wait_for_termination()


if __name__ == "__main__" and len(sys.argv) > 1:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_echo(sys.argv[1], Path(sys.argv[2]).read_bytes()))
