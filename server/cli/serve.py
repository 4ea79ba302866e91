"""`kgrank serve`: answer over gRPC."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of_whole
from server.packages import SERVING, absent

if TYPE_CHECKING:
    from server.config import Settings

_YOUNG_COLLECTIONS = 100
"""Collections of young objects before all that is not frozen is looked through, which holds up every call; Python's own
10 are twice a second under many writes. Cycles that live so long are few."""

_SWITCH_S = 0.001
"""How long a thread that computes may keep the interpreter from one that waits for it. With Python's 5 ms the journal's
thread waits longer to go on after each of its steps than the disk takes."""

_LEAVES_WITHIN_S = 60
"""How long a process may take to end beyond the time that its calls and its journal have."""

_LAST_PORT = 65_535


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", epilog="Example: kgrank serve --port 50051")(serve)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="serve.host")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", show_default="serve.port")
    ] = None,
    artifact: Annotated[
        str | None,
        typer.Option(
            help="Model version to start with; the next switch, on any server, replaces it.",
            show_default="the active one, else the newest",
        ),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Snapshot to serve it with.", show_default="the one it was trained on")
    ] = None,
    no_graph: Annotated[bool, typer.Option("--no-graph", help="Keep events in the journal only.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Server processes that share the port.", show_default="serve.processes"),
    ] = None,
    process: Annotated[int | None, typer.Option(hidden=True, help="Which of several processes this is.")] = None,
    json: Json = False,
) -> None:
    """Serve ranked, explained recommendations until SIGTERM.

    With several processes, SIGHUP restarts one after the other; one that dies is replaced.
    """
    if lacking := absent(SERVING):
        raise MissingExtraError(
            f"the package {lacking[0]!r} is not installed; serving needs the extra `server`",
            "Install it: pip install '.[server]' in kgrank's clone",
        )
    from server.open_files import allow_all_files
    from server.spare_memory import share_one_allocator
    from server.watch.logs import log_to_stderr

    settings = settings_of_whole(context)
    count = processes or settings.serve.processes
    bare_host = None if host is None else host.strip("[]")
    given = (("host", bare_host), ("port", port), ("processes", count))
    changed: dict[str, object] = {name: value for name, value in given if value is not None}
    # What is found at home unless the settings name another place.
    at_home = {"tokens_file": settings.tokens_file, "audit_file": settings.audit_file}
    access = settings.serve.access.model_copy(update=at_home)
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update={**changed, "access": access})})
    _refuse_too_few_ports(settings)
    log_to_stderr()
    allow_all_files()
    share_one_allocator()
    if count > 1 and process is None:
        _supervise(settings, json)  # which needs no torch, and so takes neither its memory nor its time to start
        return
    import torch
    import uvloop

    torch.set_num_threads(settings.serve.threads or max(1, torch.get_num_threads() // 2 // count))
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*gc.get_threshold()[:2], _YOUNG_COLLECTIONS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, artifact, _snapshot_folder(settings, snapshot), no_graph, process, json))
    _end()


def _end() -> None:
    """End this process without the interpreter's own end: all is closed, and libraries would say there what they hold.

    Triton, which torch brings, does so in some thirty lines, and none of them is JSON.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _supervise(settings: "Settings", json: bool) -> None:
    """Run several processes of this very command line, each told which one it is."""
    from server.processes import own_command, supervise

    serve = settings.serve

    def command(number: int, port: int) -> list[str]:
        # The last one counts; the configuration file may have another number by the time that one is replaced.
        shared = ["--processes", str(serve.processes), "--process", str(number), "--port", str(port), "--json"]
        return own_command([*sys.argv[1:], *shared])

    # It drains its calls, then its journal.
    patience_s = 2 * serve.drain_s + _LEAVES_WITHIN_S
    supervise(serve.processes, serve.host, serve.port, command, _teller(settings, json), patience_s)


def _of_process(settings: "Settings", process: int) -> "Settings":
    """Return the settings of one of several processes: a shared port, metrics on a port of its own."""
    watch = settings.serve.watch
    if watch.metrics_port:
        watch = watch.model_copy(update={"metrics_port": watch.metrics_port + process})
    changed = {"reuse_port": settings.serve.processes > 1, "watch": watch}
    return settings.model_copy(update={"serve": settings.serve.model_copy(update=changed)})


def _refuse_too_few_ports(settings: "Settings") -> None:
    first, count = settings.serve.watch.metrics_port, settings.serve.processes
    if first is not None and first + count - 1 > _LAST_PORT:
        raise ConfigError(
            f"serve.watch.metrics_port is {first}, and each of {count} processes takes the port after the last one's: "
            f"there is none above {_LAST_PORT}",
            f"Set it to {_LAST_PORT + 1 - count} or less.",
        )


def _teller(settings: "Settings", json: bool) -> Callable[[int, str | None], None]:
    from server.listening import address_of

    def ready(port: int, model_version: str | None) -> None:
        target = address_of(settings.serve.host, port)
        if json:
            console.tell_json({"target": target, "model_version": model_version})
        elif model_version is None:
            console.say(f"listening on {target}, but no model is in service: train one, or see the lines above")
        else:
            console.say(f"serving {model_version} on {target}")

    return ready


async def _run(
    settings: "Settings",
    artifact: str | None,
    snapshot: Path | None,
    no_graph: bool,
    process: int | None,
    json: bool,
) -> None:
    from threadpoolctl import threadpool_limits

    from kg.store import Graph
    from server.app import Server, serve
    from server.engine_loading import Places
    from server.journal_merge import merge
    from server.models import ModelFolder

    # OpenBLAS's threads go on turning for 25 ms after each product, at the expense of every other thread; torch's wait.
    threadpool_limits(1, "blas")
    if process is not None:
        settings = _of_process(settings, process)
    number = process or 0
    merge(settings.home, number, settings.serve.processes)
    places = Places(
        ModelFolder(settings.artifacts_folder, artifact), settings.snapshots_folder, settings.cache_folder, snapshot
    )
    connect = None if no_graph else lambda: Graph.connect(settings.graph, settings.graph_folder)
    server = Server(settings.serve, places, settings.journal_file_of(number), connect)
    await serve(server, _teller(settings, json), supervised=process is not None)


def _snapshot_folder(settings: "Settings", name: str | None) -> Path | None:
    if name is None:
        return None
    folder = settings.snapshots_folder / name
    if not folder.is_dir():
        raise ConfigError(f"there is no snapshot {name} in {settings.snapshots_folder}", "Make one: kgrank snapshot")
    return folder
