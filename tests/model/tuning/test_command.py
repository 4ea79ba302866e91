"""`kgrank tune` of peers: what their settings allow is searched, the default first; what they don't is refused."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.model.small_shop import saved_shop
from tests.server.command import CommandLine, kgrank

__all__ = ["kgrank"]  # the fixture

pytest.importorskip("optuna", reason="needs the extra tune")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    saved_shop(tmp_path)
    return tmp_path


@pytest.mark.parametrize("model", ["popularity", "frequency"])
def test_a_peer_whose_default_is_no_number_is_tuned(model: str, home: Path, kgrank: CommandLine) -> None:
    done = kgrank(home, "tune", "--model", model, "--trials", "3", "--json", "--out", str(home / "best.toml"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["trials"] == 3
    (folder,) = (home / "tune").iterdir()
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    halves = [trial["changed"]["half_life_days"] for trial in trials]
    assert halves[0] is None
    assert None not in halves[1:]
    assert set(tomllib.loads((home / "best.toml").read_text(encoding="utf-8"))) == {model}
    found = kgrank(home, "evaluate", "--artifact", "none", "--baselines", model, "--tuned", str(home / "best.toml"))
    assert found.code == 0, found.err


def test_a_peers_space_that_its_settings_do_not_allow_is_refused_before_the_first_trial(
    home: Path, kgrank: CommandLine
) -> None:
    (home / "space.toml").write_text("[space]\nposition_decay = { low = 0.1, high = 2.0 }\n", encoding="utf-8")
    done = kgrank(home, "tune", "--model", "itemknn", "--trials", "2", "--space", str(home / "space.toml"))
    assert done.code == 1
    assert "position_decay: Input should be less than or equal to 1 (got 2.0)" in " ".join(done.err.split())
    assert not (home / "tune").exists()
