"""Models that come into service by another server, at a start or while others come: ready, and as they were chosen."""

import asyncio
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from kg.commits import ChangeKind, Commit
from kg.snapshot import Snapshot
from kg.store import Graph
from kgrank.client import Client
from model.errors import ModelError
from model.joining import HiddenStates
from server.catalogue import LiveCatalogue
from server.engine import Engine
from server.traffic import Share, Traffic
from tests.server.running import Running, activate, running, serving_of
from tests.server.shop import Shop, tables
from tests.waiting import until


def ready_to_grow(server: Running) -> bool:
    serving = server.server._serving
    return not serving.catalogue.unprepared(serving.lineup)


@pytest.mark.neo4j
def test_a_model_that_another_server_or_a_restart_puts_into_service_is_made_ready_to_grow(
    home: Path, shop: Shop, graph: Graph
) -> None:
    graph.load(tables())
    other_home = Path(shutil.copytree(home, home.with_name("other")))
    old, new = (f"models/{version}" for version in shop.versions)
    with (
        running(home, lambda: nullcontext(graph)) as first,
        running(other_home, lambda: nullcontext(graph)) as second,
        Client(first.target, timeout_s=30) as one,
        Client(second.target, timeout_s=30) as two,
    ):
        until(lambda: ready_to_grow(second), 240)
        one.activate_model(old)
        until(lambda: two.get_traffic().active == old and ready_to_grow(second), 240)
        one.set_traffic({new: 30})
        until(lambda: bool(two.get_traffic().shares) and ready_to_grow(second), 240)
    with running(other_home, lambda: nullcontext(graph)) as second, Client(second.target, timeout_s=30) as two:
        until(lambda: bool(two.get_traffic().shares) and ready_to_grow(second), 240)


def test_a_model_that_comes_while_another_is_made_ready_to_grow_is_made_ready_too(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of, begun, go_on = LiveCatalogue.states_of, threading.Event(), threading.Event()

    def held_up(catalogue: LiveCatalogue, engine: Engine, snapshot: Snapshot) -> HiddenStates:
        begun.set()
        assert go_on.wait(240)
        return states_of(catalogue, engine, snapshot)

    async def run() -> None:
        with serving_of(home) as (serving, journal):
            await activate(serving, shop.versions[0], journal)
            preparing = asyncio.create_task(serving.prepare_to_grow())
            assert await asyncio.to_thread(begun.wait, 240)
            await activate(serving, shop.versions[1], journal)
            go_on.set()
            await preparing
            assert not serving.catalogue.unprepared(serving.lineup)

    monkeypatch.setattr(LiveCatalogue, "states_of", held_up)
    asyncio.run(run())


def test_a_model_that_can_t_be_made_ready_keeps_no_other_from_it(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of = LiveCatalogue.states_of
    broken, whole = shop.versions

    def failing(catalogue: LiveCatalogue, engine: Engine, snapshot: Snapshot) -> HiddenStates:
        if engine.model_version == broken:
            raise ModelError("its encoder is damaged", "")
        return states_of(catalogue, engine, snapshot)

    async def run() -> None:
        with serving_of(home) as (serving, journal):
            await activate(serving, broken, journal)
            await serving.change_traffic(lambda traffic: Traffic(broken, (Share(whole, 30),)), journal)
            with pytest.raises(ModelError, match="its encoder is damaged"):
                await serving.prepare_to_grow()
            assert [each.model_version for each, _ in serving.catalogue.unprepared(serving.lineup)] == [broken]

    monkeypatch.setattr(LiveCatalogue, "states_of", failing)
    asyncio.run(run())


@pytest.mark.neo4j
def test_a_model_that_was_chosen_at_the_start_stays_until_a_later_switch(home: Path, shop: Shop, graph: Graph) -> None:
    def switched(commit: Commit) -> None:
        commit.note(ChangeKind.MODEL, Traffic(shop.versions[0]).as_json())

    graph.load(tables())
    old, new = (f"models/{version}" for version in shop.versions)
    graph.commit(switched)  # by another server, after the snapshot
    with (
        running(home, lambda: nullcontext(graph), chosen=shop.versions[1]) as server,
        Client(server.target, timeout_s=30) as client,
    ):
        until(lambda: server.server._follower.caught_up)
        # Were the switch followed, it would be done before this one.
        client.set_traffic({}, shadow=old)
        assert client.get_traffic().active == new
        graph.commit(switched)
        until(lambda: client.get_traffic().active == old)
