"""A server without a model takes up what another process of its folder puts into service."""

import shutil
from pathlib import Path

import pytest
import structlog

from kgrank.client import Client
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


def test_one_whose_model_was_refused_takes_up_the_next_and_is_refused_none_again_and_again(
    home: Path, shop: Shop
) -> None:
    damaged, whole = shop.versions
    for weights in (home / "artifacts" / damaged).glob("*.safetensors"):
        weights.write_bytes(b"")
    models = ModelFolder(home / "artifacts")
    models.note(Traffic(damaged))
    with structlog.testing.capture_logs() as logged, running(home, ready=False) as server:
        # At the start, and once more: it may have come by then.
        until(lambda: sum(each["event"] == "model_refused" for each in logged) == 2)
        models.note(Traffic(whole))
        until(lambda: server.server.active == whole)
    assert sum(each["event"] == "model_refused" for each in logged) == 2
