"""What a start puts into service, and what others have switched by then: the later one wins, however late it comes."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kg.commits import Change, ChangeKind, Commit, forget_old_changes
from kg.store import Graph
from server.engine import Engine
from server.engine_loading import EngineLoader
from server.models import ModelFolder
from server.serving import Serving
from server.switch import Switch
from server.traffic import Share, Traffic
from tests.server.running import running, serving_of
from tests.server.shop import Shop, tables
from tests.waiting import until


def switched(traffic: Traffic, commit: int) -> Change:
    """Return what another server has committed."""
    return Change(commit, ChangeKind.MODEL, traffic.as_json(), 0)


async def noted(models: ModelFolder, commit: int) -> None:
    """Wait until a server of the folder has followed a commit."""
    await asyncio.to_thread(until, lambda: models.traffic is not None and models.traffic.commit == commit)


async def ended_by_another_server(switch: Switch, models: ModelFolder, begun: Traffic) -> None:
    await switch.follow([switched(begun.with_trials((), None), 61)])
    await noted(models, 61)


async def ended_here(switch: Switch, models: ModelFolder, begun: Traffic) -> None:
    await switch.change(lambda _: begun.with_trials((), None))


@pytest.mark.parametrize("ended", [ended_by_another_server, ended_here])
@pytest.mark.parametrize("trial", ["share", "shadow"])
def test_a_trial_that_ends_before_a_start_comes_to_it_does_not_come_back(
    home: Path, shop: Shop, ended: Callable[[Switch, ModelFolder, Traffic], Awaitable[None]], trial: str
) -> None:
    old, new = shop.versions
    begun = Traffic(old, (Share(new, 30.0),) if trial == "share" else (), new if trial == "shadow" else None, (), 57)

    async def run() -> Traffic:
        calls = 0

        async def activated() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:  # the active model is in service, and the graph is there
                await ended(switch, models, begun)

        models = ModelFolder(home / "artifacts")
        with serving_of(home) as (serving, journal):
            switch = Switch(serving, models, journal, activated)
            await switch.start(begun)
            return serving.lineup.traffic

    assert asyncio.run(run()).versions == (old,)


def test_a_start_serves_the_trials_that_nobody_has_ended(home: Path, shop: Shop) -> None:
    begun = Traffic(shop.versions[0], (Share(shop.versions[1], 30.0),))
    came: list[tuple[str, ...]] = []

    async def run() -> None:
        async def activated() -> None:
            came.append(serving.versions())

        with serving_of(home) as (serving, journal):
            await Switch(serving, ModelFolder(home / "artifacts"), journal, activated).start(begun)

    asyncio.run(run())
    assert came == [begun.versions[:1], begun.versions]


def test_a_trial_whose_artifact_comes_after_the_start_is_served_then(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.switch._FIRST_RETRY_S", 0.05)
    old, new = shop.versions
    models, begun = ModelFolder(home / "artifacts"), Traffic(old, (Share(new, 30.0),), commit=57)
    models.note(begun)
    away = (models.folder / new).rename(home / "away")
    with running(home) as server:
        assert server.server._serving.lineup.traffic.versions == (old,)
        assert models.lost == f"ACTIVE names model {new}, which is not there"
        away.rename(models.folder / new)
        until(lambda: server.server._serving.lineup.traffic == begun)
        assert models.lost is None


@pytest.mark.parametrize("way", ["start", "follow"])
def test_while_one_of_several_models_is_away_no_other_is_loaded_and_it_is_told_once(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("server.switch._FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("server.switch._LONGEST_RETRY_S", 0.01)
    old, new = shop.versions
    models = ModelFolder(home / "artifacts")
    begun = Traffic(old, (Share(new, 30.0), Share("gone", 10.0)), commit=57)
    loaded: list[str] = []
    load = EngineLoader.load

    def counted(loader: EngineLoader, version: str, *rest: Any) -> Engine:
        loaded.append(version)
        return load(loader, version, *rest)

    looks: list[list[str]] = []
    lacking = ModelFolder.lacking

    def looked(folder: ModelFolder, versions: Iterable[str]) -> list[str]:
        looks.append(lacking(folder, versions))
        return looks[-1]

    async def activated() -> None: ...

    async def run() -> None:
        with serving_of(home) as (serving, journal):
            switch = Switch(serving, models, journal, activated)
            await switch.start(begun if way == "start" else Traffic(old))
            if way == "follow":
                await switch.follow([switched(begun, 57)])
            await asyncio.to_thread(until, lambda: looks.count(["gone"]) > 4)
            assert serving.versions() == (old,)
            # A model in service needs its folder no more.
            shutil.rmtree(models.folder / old)
            await switch.follow([switched(Traffic(old, (Share(new, 30.0),)), 58)])
            await asyncio.to_thread(until, lambda: serving.versions() == (old, new))
            switch.leave()

    monkeypatch.setattr(EngineLoader, "load", counted)
    monkeypatch.setattr(ModelFolder, "lacking", looked)
    with capture_logs() as logged:
        asyncio.run(run())
    refused = [each for each in logged if each["event"] in ("model_refused", "traffic_not_followed")]
    assert [each["reason"] for each in refused] == ["there is no model gone"]
    assert loaded == [old, new]


@pytest.mark.parametrize("ended", [ended_by_another_server, ended_here])
def test_a_trial_that_ends_while_its_artifact_is_away_is_not_begun_when_it_comes(
    home: Path, shop: Shop, ended: Callable[[Switch, ModelFolder, Traffic], Awaitable[None]]
) -> None:
    old, new = shop.versions
    models, begun = ModelFolder(home / "artifacts"), Traffic(old, (Share(new, 30.0),), commit=57)
    away = (models.folder / new).rename(home / "away")

    async def activated() -> None: ...

    async def run() -> None:
        with serving_of(home) as (serving, journal):
            switch = Switch(serving, models, journal, activated)
            await switch.start(begun)
            await ended(switch, models, begun)
            away.rename(models.folder / new)
            assert await switch._trials_begun()
            assert serving.versions() == (old,)
            switch.leave()

    asyncio.run(run())


def test_what_is_activated_before_the_start_stays_when_the_graph_tells_of_what_was_before(
    home: Path, shop: Shop
) -> None:
    old, new = shop.versions
    models, before = ModelFolder(home / "artifacts"), Traffic(old, commit=57)
    models.note(before)

    async def activated() -> None: ...

    async def run(serving: Serving, switch: Switch) -> None:
        await switch.change(lambda _: Traffic(new))  # the start has not come to its model yet
        assert models.traffic == Traffic(new)
        await switch.start(before)
        await switch.follow([switched(before, 57)])
        await switch.change(lambda now: now or before)  # whatever was begun has ended then
        assert serving.active == new

    async def started() -> None:
        with serving_of(home) as (serving, journal):
            await run(serving, Switch(serving, models, journal, activated))

    asyncio.run(started())
    assert ModelFolder(home / "artifacts").traffic == Traffic(new)


@pytest.mark.neo4j
def test_a_server_that_is_added_later_serves_what_the_others_do_however_long_ago_they_switched(
    home: Path, shop: Shop, graph: Graph
) -> None:
    def work(commit: Commit) -> None:
        commit.note(ChangeKind.MODEL, Traffic(shop.versions[0]).as_json())

    graph.load(tables())
    graph.commit(work)
    forget_old_changes(graph, time.time_ns() // 1_000_000 + 60_000)
    assert graph.changes_since(0) == []
    assert not (home / "artifacts" / "ACTIVE").exists()  # it would begin with the newest
    with running(home, lambda: nullcontext(graph)) as server:
        until(lambda: server.server.active == shop.versions[0])
        assert ModelFolder(home / "artifacts").active == shop.versions[0]
