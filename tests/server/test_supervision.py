"""What `kgrank serve --processes` does with its processes, shown with ones that are started in no time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.waiting import until

# Writes down who it is, says that it serves once nothing holds it up, and leaves when it is asked to, unless stubborn.
CHILD = """
import json, os, pathlib, signal, sys, time
folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
starts = folder / f"starts-{number}"
with starts.open("a") as file:
    file.write(f"{os.getpid()}\\n")
count = len(starts.read_text().split())
if (folder / "fails").exists():
    sys.exit(3)
if (folder / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while (folder / f"holds-{number}").exists():
    time.sleep(0.01)
model = None if count > 1 and (folder / "loses-its-model").exists() else "a-model"
print(json.dumps({"model_version": model}), flush=True)
while True:
    signal.pause()
"""

PARENT = """
import sys
from server.processes import supervise
supervise(
    int(sys.argv[3]), "127.0.0.1", 0,
    lambda number, port: [sys.executable, sys.argv[1] + "/child.py", sys.argv[1], str(number)],
    lambda port, model: print("ready", model, flush=True),
    patience_s=float(sys.argv[2]),
)
"""

ENDS_S = 120
"""By then a supervisor has ended; on a machine that others use as well its start alone may take long."""


class Supervised:
    """A supervisor of a few processes."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.folder = folder
        self.process = process

    def starts(self, number: int) -> list[int]:
        """Return the ids of the processes that have had a place, oldest first."""
        file = self.folder / f"starts-{number}"
        return [int(line) for line in file.read_text().split()] if file.is_file() else []

    def log(self) -> list[str]:
        """Return what it has said."""
        return (self.folder / "log").read_text().splitlines()

    def said(self, event: str) -> int:
        """Return how often it has said something."""
        return sum(event in line for line in self.log())


@contextmanager
def supervised(folder: Path, patience_s: float = 5.0, count: int = 2) -> Iterator[Supervised]:
    (folder / "child.py").write_text(CHILD)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder), str(patience_s), str(count)],
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,  # a process group of its own
        )
        try:
            yield Supervised(folder, process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(ENDS_S)


def is_ready(running: Supervised) -> None:
    until(lambda: "ready a-model" in running.log())


def test_a_process_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn").touch()
    with supervised(tmp_path, patience_s=0.5) as running:
        is_ready(running)
        children = [running.starts(number)[0] for number in (0, 1)]
        running.process.terminate()
        assert running.process.wait(ENDS_S) == 0
    assert not any(psutil.pid_exists(child) for child in children)
    assert running.said("process_killed") == 2


def test_sighup_restarts_one_after_the_other(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        is_ready(running)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.said("process_restarted") == 2)
        assert [len(running.starts(number)) for number in (0, 1)] == [2, 2]
        began = [psutil.Process(running.starts(number)[-1]).create_time() for number in (0, 1)]
        assert began[0] < began[1]


def test_a_hangup_of_the_whole_process_group_is_no_more_than_a_restart(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        is_ready(running)
        os.killpg(running.process.pid, signal.SIGHUP)
        until(lambda: running.said("process_restarted") == 2)
        assert running.said("process_ended") == 0
        assert [len(running.starts(number)) for number in (0, 1)] == [2, 2]


def test_a_restart_replaces_those_that_die_meanwhile_and_ends_none_before_all_others_serve(tmp_path: Path) -> None:
    with supervised(tmp_path, count=3) as running:
        is_ready(running)
        for number in (0, 2):
            (tmp_path / f"holds-{number}").touch()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len(running.starts(0)) == 2)
        os.kill(running.starts(2)[0], signal.SIGKILL)
        until(lambda: len(running.starts(2)) == 2)
        (tmp_path / "holds-0").unlink()
        until(lambda: running.said("restart_waits") == 1)
        assert len(running.starts(1)) == 1
        assert psutil.pid_exists(running.starts(1)[0])
        (tmp_path / "holds-2").unlink()
        until(lambda: running.said("process_restarted") == 3)
        assert [len(running.starts(number)) for number in (0, 1, 2)] == [2, 2, 3]


def test_a_process_that_does_not_leave_for_its_restart_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn").touch()
    with supervised(tmp_path, patience_s=1.0) as running:
        is_ready(running)
        (tmp_path / "stubborn").unlink()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.said("process_restarted") == 2)
        assert running.said("process_killed") == 2
        assert running.said("process_ended") == 0


def test_a_restart_stops_at_a_process_that_serves_no_model(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        is_ready(running)
        (tmp_path / "loses-its-model").touch()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.said("restart_stopped") == 1)
        assert len(running.starts(0)) == 2
        assert len(running.starts(1)) == 1
        assert psutil.pid_exists(running.starts(1)[0])


def test_a_restart_says_that_it_stops_at_a_process_that_ends_at_its_start(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        is_ready(running)
        (tmp_path / "fails").touch()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: any("restart_stopped" in line and "it ended" in line for line in running.log()))
        (tmp_path / "fails").unlink()
        assert len(running.starts(1)) == 1
        assert psutil.pid_exists(running.starts(1)[0])


def test_a_process_that_dies_is_replaced_and_one_that_dies_again_waits(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        is_ready(running)
        for times in (1, 2):
            os.kill(running.starts(0)[-1], signal.SIGKILL)
            until(lambda times=times: len(running.starts(0)) == times + 1)  # type: ignore[misc]  # a default binds it
        waits = [line for line in running.log() if "process_ended" in line]
        assert ["replaced_in_s=0.0" in line for line in waits] == [True, False]
        assert len(running.starts(1)) == 1


def test_one_that_fails_at_the_start_ends_all(tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    with supervised(tmp_path) as running:
        assert running.process.wait(ENDS_S) != 0
        assert any("ended before it was ready (status 3)" in line for line in running.log())
    assert not any(psutil.pid_exists(child) for number in (0, 1) for child in running.starts(number))
