"""`kgrank models` against a real server."""

import json
from pathlib import Path

import pytest

from tests.server.command import CommandLine, kgrank
from tests.server.running import running
from tests.server.shop import Shop

__all__ = ["kgrank"]


def test_models_are_listed_switched_tried_and_rolled_back(
    kgrank: CommandLine, home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = shop.versions
    with running(home) as server:
        monkeypatch.setenv("KGRANK_TARGET", server.target)
        assert f"{old} is in service" in kgrank(home, "models", "activate", old).out
        listed = kgrank(home, "models", "list").out
        assert old in listed
        assert new in listed
        tried = kgrank(home, "models", "traffic", "--share", f"{new}=12.5").out
        assert "87.5 % of the users" in tried
        assert "12.5 % of the users" in tried
        shadowed = kgrank(home, "models", "traffic", "--shadow", new).out
        assert "nobody: a shadow" in shadowed
        assert "compared on 0 answers" in shadowed
        ended = json.loads(kgrank(home, "models", "traffic", "--end", "--json").out)
        assert ended == {"active": f"models/{old}", "shares": [], "shadow": ""}
        kgrank(home, "models", "activate", new)
        assert f"{old} is in service" in kgrank(home, "models", "rollback").out
        assert json.loads(kgrank(home, "models", "list", "--json").out)[0]["metrics"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("activate", "no-such-model"), "there is no model no-such-model"),
        (("rollback",), "no model was in service before"),
        (("traffic", "--share", "half"), "'half' is not VERSION=PERCENT"),
        (("traffic", "--share", "x=200"), "traffic.shares[0].percent is 200"),
        (("traffic", "--end", "--shadow", "x"), "--end is for ending every trial"),
    ],
)
def test_a_refusal_is_one_sentence(
    kgrank: CommandLine,
    shop: Shop,
    served: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("KGRANK_TARGET", served)
    done = kgrank(shop.home, "models", *arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err
