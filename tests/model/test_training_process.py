"""Runs that end before their time, and runs of more than one process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model import precision
from model.artifact import read_manifest
from tests.model.training_process import CONFIG, PLAIN, run

ROOT = Path(__file__).parents[2]
SCRIPT = "tests.model.training_process"
pytestmark = pytest.mark.timeout(3600)


def start(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(torchrun if processes > 1 else []), SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def digests(folder: Path) -> dict[str, str]:
    (artifact,) = (folder / "artifacts").iterdir()
    return read_manifest(artifact).digests


@pytest.mark.slow
def test_a_run_killed_by_sigkill_resumes_to_the_artifact_of_an_unbroken_one(tmp_path: Path) -> None:
    settings = {"epochs": 3, "negatives": 12}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    ended = start(killed, "--set", json.dumps(settings), "--kill-at-step", 6)  # of four in an epoch
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (killed / "artifacts").exists()
    resumed = start(killed, "--set", json.dumps(settings), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    # In a process of its own, too: float32 features of texts depend on how many threads read them.
    unbroken = start(whole, "--set", json.dumps(settings))
    assert unbroken.returncode == 0, unbroken.stderr
    assert digests(killed) == digests(whole)


@pytest.mark.slow
def test_kills_in_a_second_member_and_in_a_refit_change_nothing(tmp_path: Path) -> None:
    settings = json.dumps({"epochs": 2, "members": 2, "refit": "known"})  # four steps in an epoch: 8 for each training
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    in_second = start(killed, "--set", settings, "--kill-at-step", 14)
    assert in_second.returncode == -signal.SIGKILL, in_second.stderr
    # It goes on with the second epoch of the second member; then come the refits.
    in_refit = start(killed, "--set", settings, "--resume", "--kill-at-step", 4 + 6)
    assert in_refit.returncode == -signal.SIGKILL, in_refit.stderr
    assert {path.name for path in (killed / "checkpoint").iterdir()} >= {"member-1", "refit-0"}
    assert not (killed / "artifacts").exists()
    resumed = start(killed, "--set", settings, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    unbroken = start(whole, "--set", settings)
    assert unbroken.returncode == 0, unbroken.stderr
    assert digests(killed) == digests(whole)


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_processor_computes_in_bf16", lambda: False)
    settings = {"epochs": 2}
    together, alone = tmp_path / "two", tmp_path / "one"
    together.mkdir()
    alone.mkdir()
    ended = start(together, "--plain", "--set", json.dumps(settings), processes=2)
    assert ended.returncode == 0, ended.stderr
    run(alone, PLAIN, CONFIG.model_copy(update=settings))
    first, second, one = (
        np.load(file) for file in (together / "result-0.npz", together / "result-1.npz", alone / "result-0.npz")
    )
    np.testing.assert_array_equal(first["matrix"], second["matrix"])
    # Without dropout and bf16 the steps are the same but for the order of sums.
    np.testing.assert_allclose(first["matrix"], one["matrix"], atol=1e-3)
    assert abs(float(first["ndcg"]) - float(one["ndcg"])) < 0.02
    assert len(list((together / "runs").glob("*/events.out.tfevents.*"))) == 1
