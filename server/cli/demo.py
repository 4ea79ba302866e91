"""`kgrank demo`: the whole path on real groceries, by the commands that a user would type.

Every step is a real `kgrank` command in a process of its own, shown before it runs. What a step made is kept; a step is
run again only when its command or settings change, so that the second demo answers in seconds.
"""

import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from kg.errors import KgrankError
from kg.latest import latest_in
from server.cli import console
from server.cli.app import Json
from server.cli.demo_processes import Runner, Step, command, demo_environment, leave, run, served

if TYPE_CHECKING:
    from kg.snapshot import Snapshot

HOME = Path(".kgrank-demo")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: kgrank demo --full")(demo)


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
    environment = demo_environment(os.environ, home, config)
    unused = sorted(os.environ.keys() - environment.keys())
    unset = f"  unset {' '.join(unused)}\n" if unused else ""
    if unused:
        console.say(f"The demo keeps to its own settings; it does not read {', '.join(unused)}.")
    shown_on = sys.stderr if json else sys.stdout
    sample = ("--full",) if full else ("--households", str(households), "--weeks", str(weeks))
    _refuse_another_sample(home, sample)
    runner = Runner(home, environment, shown_on)
    steps = (
        Step("Start Neo4j", ("graph", "start"), keep=False),
        Step("Load real groceries into the graph", ("load", "completejourney", *sample)),
        Step("Freeze the graph into a snapshot", ("snapshot",)),
        Step("Train graph + BERT on it", ("train",)),
        Step("Judge it beside baselines, on weeks it has not seen", ("evaluate",)),
        Step("Write vectors and recommendations back into the graph", ("publish",)),
        Step("Look around in the graph", ("graph", "recipe", "overview"), keep=False),
    )
    before = signal.signal(signal.SIGTERM, leave)
    try:
        for number, step in enumerate(steps, start=1):
            runner.run(f"{number} of {len(steps) + 1}", step)
        console.say(f"\n== {len(steps) + 1} of {len(steps) + 1}: Serve, and ask over gRPC")
        with served(environment) as target:
            answer = _show(target, home, environment, began, shown_on)
    finally:
        subprocess.run(command(("graph", "stop")), env=environment, check=False, capture_output=True)
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - began
    if json:
        console.emit_json({"home": home, "seconds": round(seconds, 1), **answer})
    console.say(
        f"\nDone in {seconds:.0f} s. Everything is in {home}; go on with:\n"
        f"{unset}"
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


def _show(target: str, home: Path, environment: dict[str, str], began: float, shown_on: TextIO) -> dict[str, object]:
    """Ask for a real user's ten products with reasons, tell the server of an event, and ask again."""
    from kgrank.channel import Credentials
    from kgrank.client import Client, event
    from kgrank.v1.common_pb2 import Context

    user_id = _typical_user(home)
    asked = ("recommend", user_id, "--k", "10", "--reasons", "--target", target)
    console.say(f"$ kgrank {' '.join(asked)}")
    run(asked, environment, shown_on)
    console.say(f"First answer after {time.monotonic() - began:.0f} s.")
    with Client(target, credentials=Credentials()) as client:
        before = client.recommend(user_id, k=50, details=True).results
        bought = before[-1]
        console.say(f"\nThe user buys {bought.title!r} now: one event, acknowledged when it is on disk ...")
        # The data is of the past, so the event is of the moment after it: by the clock, years would have gone by.
        client.write_event(event(user_id, bought.product_id, "purchase", at_ms=_last_moment_ms(home) + 1))
        after = client.recommend(user_id, k=50, details=True).results
        looked = Context(seed_product_ids=[bought.product_id])
        unknown = client.recommend("", k=5, details=True).results
        looking = client.recommend("", k=5, details=True, context=looked).results
    earlier = {result.product_id: place for place, result in enumerate(before, start=1)}
    rows = [
        (place, result.title, f"{result.score:.2f}", earlier.get(result.product_id, "new"))
        for place, result in enumerate(after, start=1)
        if place <= 10 or result.product_id == bought.product_id
    ]
    if shown_on is sys.stdout:
        console.emit_table("... and the next answer has changed", ("place", "product", "score", "before"), rows)
        console.emit_table(
            f"A visitor nobody knows, at first and after a look at {bought.title!r}",
            ("place", "at first", "after the look"),
            [
                (place, first.title, then.title)
                for place, (first, then) in enumerate(zip(unknown, looking, strict=True), start=1)
            ],
        )
    explained = ("explain", user_id, after[0].product_id, "--target", target)
    console.say(f"$ kgrank {' '.join(explained)}")
    run(explained, environment, shown_on)
    return {"user_id": user_id, "product_ids": [result.product_id for result in after[:10]]}


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

    latest = latest_in(home / "snapshots")
    assert latest is not None  # the demo has just made one
    return Snapshot.open(latest, verify=False)
