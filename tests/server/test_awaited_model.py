"""A server without a model takes up what another process of its folder puts into service."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
import structlog

from kgrank.client import Client
from server.awaited_model import noted_beside
from server.models import ModelFolder
from server.traffic import Traffic
from tests.server.running import running
from tests.server.shop import Shop
from tests.waiting import until


@pytest.fixture(autouse=True)
def looked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.awaited_model._LOOKED_EVERY_S", 0.05)


def test_a_model_that_another_process_has_activated_is_served(tmp_path: Path, shop: Shop) -> None:
    home = tmp_path / "home"
    with running(home, ready=False) as server, Client(server.target) as client:
        for name in ("snapshots", "cache", "artifacts"):
            shutil.copytree(shop.home / name, home / name)
        assert server.server.active is None
        ModelFolder(home / "artifacts").note(Traffic(shop.versions[0]))  # not the newest
        until(lambda: server.server.active is not None)
        until(lambda: server.server._readiness.ready)
        assert client.recommend("user-01", k=1).model_version == shop.versions[0]


def test_one_whose_model_was_refused_takes_up_the_next(home: Path, shop: Shop) -> None:
    damaged, whole = shop.versions
    for weights in (home / "artifacts" / damaged).glob("*.safetensors"):
        weights.write_bytes(b"")
    models = ModelFolder(home / "artifacts")
    models.note(Traffic(damaged))
    with structlog.testing.capture_logs() as logged, running(home, ready=False) as server:
        until(lambda: "model_refused" in {each["event"] for each in logged})
        models.note(Traffic(whole))
        until(lambda: server.server.active == whole)


def test_a_model_that_is_being_copied_is_served_once_it_has_come(home: Path, shop: Shop) -> None:
    copied = shop.versions[0]
    folder = home / "artifacts" / copied
    weights = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    for path in weights:
        path.write_bytes(b"")
    ModelFolder(home / "artifacts").note(Traffic(copied))
    with structlog.testing.capture_logs() as logged, running(home, ready=False) as server:
        until(lambda: "model_refused" in {each["event"] for each in logged})
        for path, content in weights.items():
            path.write_bytes(content)
        until(lambda: server.server.active == copied)


def test_what_is_refused_is_tried_again_after_waits_that_grow(home: Path, shop: Shop) -> None:
    models = ModelFolder(home / "artifacts")
    models.note(Traffic(shop.versions[0]))

    async def run() -> None:
        noted = noted_beside(models)
        assert (await anext(noted)).active == shop.versions[0]
        for least_s in (0.05, 0.1, 0.2):  # however fast or slow the machine is
            began_s = time.monotonic()
            assert (await anext(noted)).active == shop.versions[0]
            assert time.monotonic() - began_s >= least_s
        models.note(Traffic(shop.versions[1]))
        assert (await anext(noted)).active == shop.versions[1]

    asyncio.run(run())


def test_one_that_takes_up_another_model_than_was_noted_tells_of_it(home: Path, shop: Shop) -> None:
    models = ModelFolder(home / "artifacts")
    models.note(Traffic("gone", before=(shop.versions[0],)))

    async def noted() -> Traffic:
        return await anext(noted_beside(models))

    with structlog.testing.capture_logs() as logged:
        assert asyncio.run(noted()).active == shop.versions[0]
    told = [(each["event"], each["begins_with"]) for each in logged]
    assert told == [("active_missing", shop.versions[0])]
