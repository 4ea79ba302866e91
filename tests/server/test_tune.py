import json
import tomllib
from pathlib import Path

import pytest

from tests.model.small_shop import saved_shop
from tests.server.command import CommandLine, kgrank

__all__ = ["kgrank"]  # the fixture

pytest.importorskip("optuna", reason="needs the extra tune")

SETTINGS = """
[model]
dimension = 16
layers = 1
text_kernel_dimension = 8
[train]
epochs = 1
batch_users = 64
threads = 1
"""
SPACE = """
[space]
"model.layers" = [0, 1]
"model.dropout" = { low = 0.0, high = 0.5 }
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    saved_shop(tmp_path)
    (tmp_path / "kgrank.toml").write_text(SETTINGS, encoding="utf-8")
    (tmp_path / "space.toml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def test_tuning_writes_a_configuration_that_trains(home: Path, kgrank: CommandLine) -> None:
    tune = ("--config", str(home / "kgrank.toml"), "tune", "--space", str(home / "space.toml"), "--json")
    done = kgrank(home, *tune, "--trials", "2", "--out", str(home / "best.toml"))
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["trials"] == 2
    assert set(said["best"]) == {"model.layers", "model.dropout"}
    best = tomllib.loads((home / "best.toml").read_text(encoding="utf-8"))
    assert best["model"]["dimension"] == 16
    assert best["model"]["layers"] == said["best"]["model.layers"]
    trained = kgrank(home, "--config", str(home / "best.toml"), "train", "--json")
    assert trained.code == 0, trained.err
    (events,) = (home / "runs").glob("*/events.out.tfevents.*")
    assert events.stat().st_size > 0


def test_a_peer_is_tuned_in_its_own_space_and_a_second_run_goes_on(home: Path, kgrank: CommandLine) -> None:
    for trials in (2, 3):
        done = kgrank(home, "tune", "--model", "itemknn", "--trials", str(trials), "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["trials"] == trials
        assert done.err.count("trial ") == (2 if trials == 2 else 1)
    (folder,) = (home / "tune").iterdir()
    assert folder.name.startswith("itemknn-")


def test_a_peer_answers_with_the_settings_that_were_found(home: Path, kgrank: CommandLine) -> None:
    file = home / "itemknn.toml"
    best = json.loads(kgrank(home, "tune", "--model", "itemknn", "--trials", "2", "--json", "--out", str(file)).out)[
        "best"
    ]
    evaluate = ("evaluate", "--artifact", "none", "--json", "--tuned", str(file))
    told = json.loads(kgrank(home, *evaluate, "--baselines", "popularity,itemknn").out)
    used = {result["ranker"]: result["config"] for result in told["cases"][0]["results"]}["itemknn"]
    assert used.items() >= best.items()
    refused = kgrank(home, *evaluate, "--baselines", "popularity")
    assert refused.code == 1
    assert "--tuned has settings of itemknn" in refused.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--model", "eaze"), "there is no model 'eaze'"),
        (("--space", "wrong.toml"), "model.dropout"),
        (("--space", "nowhere.toml"), "can't be read"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(
    home: Path, kgrank: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], problem: str
) -> None:
    monkeypatch.chdir(home)
    (home / "wrong.toml").write_text('[space]\n"model.dropout" = { low = 0.1, high = 2.0 }\n', encoding="utf-8")
    done = kgrank(home, "tune", *arguments, "--trials", "1")
    assert done.code == 1
    assert problem in done.err
