"""A real server for tests: in a thread with its own event loop, or in a process of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.app import Server
from server.config import ServeSettings
from server.drain import EventStore
from server.engine import Engine
from server.engine_loading import Places
from server.journal import Journal
from server.models import ModelFolder
from server.serving import Serving
from server.traffic import Traffic

Connect = Callable[[], AbstractContextManager[EventStore]]


@dataclass(frozen=True)
class Running:
    """A server that serves: its address, and the loop that it runs in."""

    target: str
    server: Server
    loop: asyncio.AbstractEventLoop


@contextmanager
def running(
    home: Path, connect: Connect | None = None, *, ready: bool = True, chosen: str | None = None, **settings: Any
) -> Iterator[Running]:
    """Run a server on a free port until the block ends; it serves when the block begins, unless `ready` is not set."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()
    places = Places(ModelFolder(home / "artifacts", chosen), home / "snapshots", home / "cache")

    async def start() -> tuple[Server, int]:
        made = ServeSettings(**{"port": 0, "drain_s": 5, "rules_wait_s": 1, **settings})
        server = Server(made, places, home / "journal.db", connect)
        port = await server.start()
        if ready:
            await server.ready()
        return server, port

    try:
        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(240)
        try:
            yield Running(f"127.0.0.1:{port}", server, loop)
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def serving_of(home: Path, journal_name: str = "journal.db", **settings: Any) -> Iterator[tuple[Serving, Journal]]:
    """Make what holds the models of a home, and its journal, without a server."""
    journal = Journal(home / journal_name)
    serving = Serving(
        ServeSettings(**settings), Places(ModelFolder(home / "artifacts"), home / "snapshots", home / "cache")
    )
    try:
        yield serving, journal
    finally:
        serving.close()
        journal.close()


async def activate(serving: Serving, model_version: str, journal: Journal) -> Engine:
    """Put a model into service, as `ActivateModel` does; return its engine."""
    lineup = await serving.change_traffic(
        lambda now: Traffic(model_version) if now is None else now.activated(model_version), journal
    )
    return lineup.active
