"""The processes of `kgrank demo`: its steps, each a `kgrank` command, and the server; none outlives the demo."""

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from kg.errors import KgrankError
from kg.whole_files import write_whole
from server.cli import console
from server.variables import CONFIG_FILE, PREFIX

if TYPE_CHECKING:
    from kgrank.client import Client

SERVER_START_S = 120
_HOME = "KGRANK_HOME"
_TRACKING = "MLFLOW_TRACKING_URI"
"""MLflow's own variable, and a setting of ours."""


@dataclass(frozen=True)
class Step:
    """One command of the demo, and whether what it made the last time will do."""

    title: str
    arguments: tuple[str, ...]
    keep: bool = True


def demo_environment(given: Mapping[str, str], home: Path, config: Path) -> dict[str, str]:
    """Return the environment of the demo's processes, without settings of others: one may name a shop's own graph."""
    kept = {name: value for name, value in given.items() if not name.upper().startswith(PREFIX) and name != _TRACKING}
    return kept | {_HOME: str(home), CONFIG_FILE: str(config)}


class Runner:
    """Runs steps, and remembers in `steps.json` which are done and by what."""

    def __init__(self, home: Path, environment: dict[str, str], shown_on: TextIO) -> None:
        self._shown_on = shown_on
        self._file = home / "steps.json"
        self._environment = environment
        self._done: dict[str, str] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        config = Path(environment[CONFIG_FILE]).read_bytes()
        self._digest = hashlib.blake2b(config, digest_size=8).hexdigest()

    def run(self, place: str, step: Step) -> None:
        """Run one step, or say that what it made is still there."""
        console.say(f"\n== {place}: {step.title}\n$ kgrank {' '.join(step.arguments)}")
        # What a step makes depends on the steps before it, so each one's digest holds those.
        self._digest = hashlib.blake2b(f"{self._digest} {step.arguments}".encode(), digest_size=8).hexdigest()
        if step.keep and self._done.get(step.title) == self._digest:
            console.say("(kept from the last time)")
            return
        began = time.monotonic()
        run(step.arguments, self._environment, self._shown_on)
        console.say(f"({time.monotonic() - began:.0f} s)")
        if step.keep:
            self._done[step.title] = self._digest
            write_whole(self._file, json.dumps(self._done).encode())


@contextlib.contextmanager
def served(environment: dict[str, str]) -> Iterator[str]:
    """Run `kgrank serve` on a free port; yield its target once it is serving."""
    from kgrank.channel import Credentials
    from kgrank.client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    console.say(f"$ kgrank serve --port {target.rpartition(':')[2]}")
    log = Path(environment[_HOME]) / "serve.log"
    process = None
    try:
        with log.open("w", encoding="utf-8") as sink, termination_waits():
            process = subprocess.Popen(
                command(("serve", "--port", target.rpartition(":")[2])), env=environment, stdout=sink, stderr=sink
            )
        _wait_until_it_answers(Client(target, credentials=Credentials()), process, log)
        yield target
    finally:
        _end(process)


def _wait_until_it_answers(client: "Client", process: "subprocess.Popen[bytes]", log: Path) -> None:
    from kgrank.errors import DeadlineError, ServerUnavailableError

    deadline = time.monotonic() + SERVER_START_S
    with client:
        while True:
            try:
                client.recommend(k=1)
            except (ServerUnavailableError, DeadlineError) as error:  # it loads its model, or is busy with it
                if process.poll() is not None or time.monotonic() > deadline:
                    raise KgrankError("the server did not start", f"Its log says why: {log}") from error
                time.sleep(0.2)
            else:
                return


def run(arguments: tuple[str, ...], environment: dict[str, str], shown_on: TextIO) -> None:
    """Run a `kgrank` command to its end, which comes early when the demo is terminated.

    Raises:
        KgrankError: it failed.
    """
    process = None
    try:
        with termination_waits():
            process = subprocess.Popen(command(arguments), env=environment, stdout=shown_on)
        returncode = process.wait()
    except BaseException:
        _end(process)
        raise
    if returncode != 0:
        raise KgrankError(
            f"the demo stopped: `kgrank {' '.join(arguments)}` ended with {returncode}",
            "The lines above say why; mend it and run the demo again: it goes on from this step.",
        )


def _end(process: "subprocess.Popen[bytes] | None") -> None:
    if process is not None:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def termination_waits() -> Iterator[None]:
    """Hold SIGTERM back while a process starts: before it has a name here, nobody could end it."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)


def leave(_signal: int, _frame: FrameType | None) -> None:
    """End in order when terminated: Neo4j and the server are stopped."""
    sys.exit(128 + signal.SIGTERM)


def command(arguments: tuple[str, ...]) -> list[str]:
    """Return the command line of a `kgrank` command."""
    return [sys.executable, "-m", "server.main", *arguments]
