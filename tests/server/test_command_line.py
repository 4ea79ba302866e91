"""What every command shares: text is printed as it is stored, JSON is JSON, and a mistake ends in one sentence."""

import io
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from kg.errors import ConfigError
from server.cli import console
from server.cli.app import COMMANDS
from server.cli.cypher_input import statements
from tests.server.command import CommandLine

IDS = ["sku:100:red", "[bold]mug[/bold]", ":smile:"]


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_table(" ".join(IDS), IDS, [IDS])
    console.out.print(" ".join(IDS), style="green")
    console.say(" ".join(IDS))
    printed = capsys.readouterr()
    assert [printed.out.count(each) for each in IDS] == [4, 4, 4]
    assert printed.err == " ".join(IDS) + "\n"


def test_a_bar_s_note_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console.err, "_file", shown)
    monkeypatch.setattr(console.err, "_force_terminal", True)
    monkeypatch.setattr(console.err, "width", 200)
    with console.meter(IDS[0], 1) as meter:
        meter.advance(note=" ".join(IDS[1:]))
    assert " ".join(IDS) in shown.getvalue()


def test_the_settings_are_printed_as_they_are(kgrank: CommandLine, tmp_path: Path) -> None:
    home = tmp_path / "a\tb:100:"
    assert tomllib.loads(kgrank(home, "config").out)["home"] == str(home)


def test_json_has_no_number_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, [1.5, None]], "c": "x"}


def test_every_command_prints_json_when_asked() -> None:
    app = typer.Typer()
    for name in COMMANDS:
        import_module(f"server.cli.{name}").register(app)
    without = {name for name, command in leaves("", get_command(app)) if "--json" not in options(command)}
    assert without == {" user export"}  # which prints JSON lines, and nothing else


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    nested = getattr(command, "commands", None)
    if nested is None:
        yield name, command
    for below, each in (nested or {}).items():
        yield from leaves(f"{name} {below}", each)


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_a_recipe_is_shown_as_json(kgrank: CommandLine, tmp_path: Path) -> None:
    shown = json.loads(kgrank(tmp_path, "graph", "recipe", "never_bought", "--show", "--json").out)
    assert (shown["name"], shown["parameters"]) == ("never_bought", "limit=20")
    assert shown["cypher"] == kgrank(tmp_path, "graph", "recipe", "never_bought", "--show").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--remove", "a", "--activate", "b"), "--remove a only removes: it does not take --activate b"),
        (("--remove", "a", "--snapshot", "s"), "--remove a only removes: it does not take --snapshot s"),
        (
            ("--activate", "b", "--k", "20", "--keep", "2"),
            "--activate b only switches: it does not take --k 20, --keep 2",
        ),
        (("--activate", "b", "--users", "u.txt", "--artifact", "m"), "it does not take --users u.txt, --artifact m"),
    ],
)
def test_publish_passes_over_no_option(
    kgrank: CommandLine, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = kgrank(tmp_path, "publish", *arguments)
    assert (done.code, said in done.err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_an_argument_that_is_no_text_is_named(kgrank: CommandLine, tmp_path: Path) -> None:
    done = kgrank(tmp_path, "user", "profile", "caf\udce9", "--target", "127.0.0.1:1")
    assert done.code == 1
    assert done.err.startswith("error: argument 3, caf\\xe9, is not UTF-8 text\n")


def test_queries_that_are_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"RETURN 'caf\xe9'"), encoding="utf-8"))
    with pytest.raises(ConfigError, match="standard input is not UTF-8 text"):
        list(statements(None, tmp_path / "history"))


@pytest.mark.parametrize(
    ("place", "remedy"),
    [("file", "a file where a folder has to be"), ("file/home", "a part of it is a file"), ("x" * 300, "shorter name")],
)
def test_a_home_that_can_not_be_a_folder_is_named(kgrank: CommandLine, tmp_path: Path, place: str, remedy: str) -> None:
    (tmp_path / "file").touch()
    done = kgrank(tmp_path / place, "token", "create", "shop", "--role", "read")
    assert done.code == 1
    assert done.err.startswith(f"error: {tmp_path / place} can't be used: ")
    assert remedy in done.err.lower()
    assert "KGRANK_HOME" in done.err
    assert "Traceback" not in done.err


def test_a_seed_below_zero_is_a_mistake(kgrank: CommandLine, tmp_path: Path) -> None:
    done = kgrank(tmp_path, "load", "completejourney", "--seed", "-1", "--check-only")
    assert (done.code, "--seed" in done.err) == (2, True)


@pytest.mark.parametrize(("chosen", "wait"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep_unless_told_otherwise(chosen: dict[str, str], wait: str) -> None:
    told = "import atexit, os, sys; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'])); "
    run = "sys.argv = ['kgrank', '--help']; from server.main import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | chosen
    command = [sys.executable, "-c", told + run]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout
    assert printed.splitlines()[-1] == wait
