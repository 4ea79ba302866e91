"""`kgrank serve`: answer over gRPC."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from server.config import Settings


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
        str | None, typer.Option(help="Model version to serve.", show_default="the active one, else the newest")
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Snapshot to serve it with.", show_default="the one it was trained on")
    ] = None,
    no_graph: Annotated[bool, typer.Option("--no-graph", help="Keep events in the journal only.")] = False,
    json: Json = False,
) -> None:
    """Serve ranked, explained recommendations until SIGTERM."""
    try:
        import grpc_health  # noqa: F401
        import grpc_reflection  # noqa: F401
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the package {error.name!r} is not installed; serving needs the extra `server`",
            "Install it: pip install 'kgrank[server]'",
        ) from error
    settings = settings_of(context)
    changed = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    # What is found at home unless the settings name another place.
    at_home = {"tokens_file": settings.tokens_file, "audit_file": settings.audit_file}
    access = settings.serve.access.model_copy(update=at_home)
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update={**changed, "access": access})})
    _log_to_stderr()
    torch.set_num_threads(settings.serve.threads or max(1, torch.get_num_threads() // 2))
    asyncio.run(_run(settings, artifact, _snapshot_folder(settings, snapshot), no_graph, json))


async def _run(settings: "Settings", artifact: str | None, snapshot: Path | None, no_graph: bool, json: bool) -> None:
    from kg.store import Graph
    from server.app import Server, serve
    from server.models import ModelFolder
    from server.serving import Places

    def ready(port: int, model_version: str | None) -> None:
        target = f"{settings.serve.host}:{port}"
        if json:
            console.emit_json({"target": target, "model_version": model_version})
            sys.stdout.flush()
        elif model_version is None:
            console.say(f"listening on {target}, but no model is in service: train one, or see the lines above")
        else:
            console.say(f"serving {model_version} on {target}")

    places = Places(
        ModelFolder(settings.artifacts_folder, artifact), settings.snapshots_folder, settings.cache_folder, snapshot
    )
    connect = None if no_graph else lambda: Graph.connect(settings.graph, settings.graph_folder)
    server = Server(settings.serve, places, settings.journal_file, connect)
    await serve(server, ready)


def _snapshot_folder(settings: "Settings", name: str | None) -> Path | None:
    if name is None:
        return None
    folder = settings.snapshots_folder / name
    if not folder.is_dir():
        raise ConfigError(f"there is no snapshot {name} in {settings.snapshots_folder}", "Make one: kgrank snapshot")
    return folder


def _log_to_stderr() -> None:
    """Log events as JSON lines; as text for a person at a terminal."""
    import structlog

    # Its own tracebacks would show local variables: passwords, and ids of people.
    for_a_person = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = for_a_person if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if sys.stderr.isatty() else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
