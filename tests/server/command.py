"""The command line in this process: what a terminal would show, and the exit code."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from server.cli.app import run


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """Runs `kgrank` with a home folder."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, home: Path, *arguments: str) -> Done:
        self.monkeypatch.setenv("KGRANK_HOME", str(home))
        self.monkeypatch.setattr(sys, "argv", ["kgrank", *arguments])
        self.capsys.readouterr()
        try:
            run()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        else:
            code = 0
        finally:
            structlog.reset_defaults()  # the command's logger holds this test's stderr
        return Done(code, *self.capsys.readouterr())


@pytest.fixture
def kgrank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line."""
    return CommandLine(monkeypatch, capsys)
