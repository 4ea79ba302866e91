"""`kgrank demo`: the whole path on real groceries, by the commands that a user would type.

Every step is a real `kgrank` command in a process of its own, shown before it runs. What a step made is kept; a step is
run again only when its command or settings change, so that the second demo answers in seconds.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from kg.errors import KgrankError
from server.cli import console
from server.cli.app import Json

if TYPE_CHECKING:
    from kg.snapshot import Snapshot
    from kgrank.client import Client

HOME = Path(".kgrank-demo")
SERVER_START_S = 120


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: kgrank demo --full")(demo)


@dataclass(frozen=True)
class Step:
    """One command of the demo, and whether what it made the last time will do."""

    title: str
    arguments: tuple[str, ...]
    keep: bool = True


def demo(
    full: Annotated[bool, typer.Option(help="All 2,469 households and 53 weeks; takes about an hour.")] = False,
    households: Annotated[int, typer.Option(min=1, help="Households in the sample.")] = 500,
    weeks: Annotated[int, typer.Option(min=8, max=53, help="Last weeks in the sample.")] = 26,
    home: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = HOME,
    json: Json = False,
) -> None:
    """Load real groceries into a real Neo4j, train, compare, serve, and show ten explained products."""
    began = time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "demo.toml"
    config.write_bytes(files("server.cli").joinpath("demo.toml").read_bytes())
    environment = os.environ | {"KGRANK_HOME": str(home), "KGRANK_CONFIG": str(config)}
    environment.pop("KGRANK_SERVE__PORT", None)
    shown_on = sys.stderr if json else sys.stdout
    sample = ("--full",) if full else ("--households", str(households), "--weeks", str(weeks))
    _refuse_another_sample(home, sample)
    runner = _Runner(home, environment, shown_on)
    steps = (
        Step("Start Neo4j", ("graph", "start"), keep=False),
        Step("Load real groceries into the graph", ("load", "completejourney", *sample)),
        Step("Freeze the graph into a snapshot", ("snapshot",)),
        Step("Train graph + BERT on it", ("train",)),
        Step("Judge it beside baselines, on weeks it has not seen", ("evaluate",)),
        Step("Write vectors and recommendations back into the graph", ("publish",)),
        Step("Look around in the graph", ("graph", "recipe", "overview"), keep=False),
    )
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        for number, step in enumerate(steps, start=1):
            runner.run(f"{number} of {len(steps) + 1}", step)
        console.say(f"\n== {len(steps) + 1} of {len(steps) + 1}: Serve, and ask over gRPC")
        with _server(environment) as target:
            answer = _show(target, home, environment, began, shown_on)
    finally:
        subprocess.run(_command(("graph", "stop")), env=environment, check=False, capture_output=True)
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - began
    if json:
        console.emit_json({"home": home, "seconds": round(seconds, 1), **answer})
    console.say(
        f"\nDone in {seconds:.0f} s. Everything is in {home}; go on with:\n"
        f"  export KGRANK_HOME={home} KGRANK_CONFIG={config}\n"
        "  kgrank serve                   # and in another terminal: kgrank recommend USER\n"
        "  kgrank graph shell             # Cypher"
    )


def _refuse_another_sample(home: Path, sample: tuple[str, ...]) -> None:
    """Keep one home to one sample: loads add to a graph, and two samples in one would be neither."""
    file, wanted = home / "sample.txt", " ".join(sample)
    if not file.is_file():
        file.write_text(wanted, encoding="utf-8")
    elif (there := file.read_text(encoding="utf-8")) != wanted:
        raise KgrankError(
            f"{home} holds the demo of another sample: {there}, not {wanted}",
            "Remove that folder, or choose another one: --home",
        )


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End in order when terminated: Neo4j and the server are stopped."""
    sys.exit(128 + signal.SIGTERM)


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "server.main", *arguments]


class _Runner:
    """Runs steps, and remembers in `steps.json` which are done and by what."""

    def __init__(self, home: Path, environment: dict[str, str], shown_on: TextIO) -> None:
        self._shown_on = shown_on
        self._file = home / "steps.json"
        self._environment = environment
        self._done: dict[str, str] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        config = Path(environment["KGRANK_CONFIG"]).read_bytes()
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
        done = subprocess.run(_command(step.arguments), env=self._environment, stdout=self._shown_on, check=False)
        if done.returncode != 0:
            raise KgrankError(
                f"the demo stopped: `kgrank {' '.join(step.arguments)}` ended with {done.returncode}",
                "The lines above say why; mend it and run the demo again: it goes on from this step.",
            )
        console.say(f"({time.monotonic() - began:.0f} s)")
        if step.keep:
            self._done[step.title] = self._digest
            partial = self._file.with_suffix(".partial")
            partial.write_text(json.dumps(self._done))
            partial.replace(self._file)


@contextlib.contextmanager
def _server(environment: dict[str, str]) -> Iterator[str]:
    """Run `kgrank serve` on a free port; yield its target once it is serving."""
    from kgrank.client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    console.say(f"$ kgrank serve --port {target.rpartition(':')[2]}")
    log = Path(environment["KGRANK_HOME"]) / "serve.log"
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            _command(("serve", "--port", target.rpartition(":")[2])), env=environment, stdout=sink, stderr=sink
        )
    try:
        _wait_until_it_answers(Client(target), process, log)
        yield target
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_until_it_answers(client: "Client", process: "subprocess.Popen[bytes]", log: Path) -> None:
    from kgrank.errors import ServerUnavailableError

    deadline = time.monotonic() + SERVER_START_S
    with client:
        while True:
            try:
                client.recommend(k=1)
            except ServerUnavailableError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise KgrankError("the server did not start", f"Its log says why: {log}") from error
                time.sleep(0.2)
            else:
                return


def _show(target: str, home: Path, environment: dict[str, str], began: float, shown_on: TextIO) -> dict[str, object]:
    """Ask for a real user's ten products with reasons, tell the server of an event, and ask again."""
    from kgrank.client import Client, event

    user_id = _typical_user(home)
    asked = ("recommend", user_id, "--k", "10", "--reasons", "--target", target)
    console.say(f"$ kgrank {' '.join(asked)}")
    subprocess.run(_command(asked), env=environment, stdout=shown_on, check=True)
    console.say(f"First answer after {time.monotonic() - began:.0f} s.")
    with Client(target) as client:
        before = client.recommend(user_id, k=50, details=True).results
        bought = before[-1]
        console.say(f"\nThe user buys {bought.title!r} now: one event, acknowledged when it is on disk ...")
        # The data is of the past, so the event is of the moment after it: by the clock, years would have gone by.
        client.write_event(event(user_id, bought.product_id, "purchase", at_ms=_last_moment_ms(home) + 1))
        after = client.recommend(user_id, k=10, details=True).results
    earlier = {result.product_id: place for place, result in enumerate(before, start=1)}
    rows = [
        (place, result.title, f"{result.score:.2f}", earlier.get(result.product_id, "new"))
        for place, result in enumerate(after, start=1)
    ]
    if shown_on is sys.stdout:
        console.emit_table("... and the next answer has changed", ("place", "product", "score", "before"), rows)
    explained = ("explain", user_id, after[0].product_id, "--target", target)
    console.say(f"$ kgrank {' '.join(explained)}")
    subprocess.run(_command(explained), env=environment, stdout=shown_on, check=True)
    return {"user_id": user_id, "product_ids": [result.product_id for result in after]}


def _typical_user(home: Path) -> str:
    """Return the user with the median number of interactions."""
    import numpy as np

    snapshot = _snapshot(home)
    lengths = np.diff(snapshot.histories.offsets)
    return snapshot.users.id(int(np.argsort(lengths, kind="stable")[len(lengths) // 2]))


def _last_moment_ms(home: Path) -> int:
    return _snapshot(home).as_of_ms


def _snapshot(home: Path) -> "Snapshot":
    from kg.snapshot import Snapshot

    folder = home / "snapshots"
    return Snapshot.open(folder / (folder / "LATEST").read_text(encoding="utf-8").strip(), verify=False)
