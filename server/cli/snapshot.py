"""`kgrank snapshot`: freeze the graph at one moment, for training and serving."""

import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, SnapshotError
from kg.latest import LATEST, note_latest
from server.cli import console
from server.cli.app import Json, settings_of_whole

if TYPE_CHECKING:
    from kg.snapshot import Snapshot

_NAME_CHARS = 12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 24 * 3_600_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("snapshot", epilog="Example: kgrank snapshot --as-of 2025-01-31 --name january")(make_snapshot)


def make_snapshot(
    context: typer.Context,
    as_of: Annotated[
        str | None,
        typer.Option(help="Leave out later interactions; an ISO date (its whole day, UTC) or time.", metavar="DATE"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="its content hash")] = None,
    json: Json = False,
) -> None:
    """Export the graph and keep it as a snapshot; training and serving take the newest."""
    from kg.erasure import erasures_since
    from kg.exporting import row_count
    from kg.freeze import freeze
    from kg.redaction import put_again, redact_all
    from kg.store import Graph

    settings = settings_of_whole(context)
    as_of_ms = None if as_of is None else parse_moment_ms(as_of)
    if name is not None and (not name or name.startswith(".") or "/" in name or name == LATEST):
        raise ConfigError(f"snapshot name {name!r} can't be a folder's", "Use letters, digits, dots and dashes.")
    with Graph.connect(settings.graph, settings.graph_folder, console.say) as graph:
        with console.meter("exporting", row_count(graph)) as meter:
            commit = graph.last_commit  # read first: what is committed meanwhile may be in the tables, or not
            tables = graph.export(as_of_ms, meter)
        snapshot = freeze(tables, as_of_ms=as_of_ms, commit=commit)
        if _is_past(as_of_ms):  # interactions of any commit may be later than that
            snapshot = replace(snapshot, events_commit=0)
        folder = settings.snapshots_folder / (name or snapshot.content_hash[:_NAME_CHARS])
        known = _is_there(folder, snapshot, named=name is not None)
        if known:
            known = not put_again(snapshot, folder)
        else:
            snapshot.save(folder)
        name = folder.name
        note_latest(settings.snapshots_folder, name)
        # Who was erased meanwhile may be in it; a server that erases from now on finds it. Last: that another snapshot
        # can't be rewritten takes nothing from this one.
        redact_all(settings.snapshots_folder, erasures_since(graph, commit))
    if not snapshot.counts["interactions"]:
        before = "" if as_of is None else f" until {as_of}"
        console.say(
            f"the graph has no interactions{before}, so that nothing can be trained: load some with kgrank load"
        )
    if json:
        console.emit_json(
            {
                "name": name,
                "folder": str(folder),
                "content_hash": snapshot.content_hash,
                "as_of_ms": snapshot.as_of_ms,
                "new": not known,
                "counts": snapshot.counts,
            }
        )
        return
    rows = [(what, f"{count:,}") for what, count in snapshot.counts.items()]
    console.emit_table(f"snapshot {name}{' (unchanged)' if known else ''}", ("what", "count"), rows)


def _is_there(folder: Path, snapshot: "Snapshot", *, named: bool) -> bool:
    """Return whether a folder has this very snapshot; one that can't be opened is moved out of the way.

    Raises:
        SnapshotError: it can't be opened, and has the name that was asked for.
    """
    from kg.snapshot import Snapshot

    try:
        return folder.is_dir() and Snapshot.open(folder).content_hash == snapshot.content_hash
    except SnapshotError as error:
        if named:
            raise
        _put_aside(folder, error)
        return False


def _is_past(moment_ms: int | None) -> bool:
    return moment_ms is not None and moment_ms < time_ns() // 1_000_000


def _put_aside(folder: Path, error: SnapshotError) -> None:
    """Move a snapshot that can't be opened away from the name that its content gives it."""
    aside = folder.with_name(f".damaged-{folder.name}-{os.getpid()}")
    folder.rename(aside)
    console.say(f"{error.problem}: moved to {aside}, and written anew")


def parse_moment_ms(text: str) -> int:
    """Return the last millisecond that `--as-of` includes: of a date, its end; of a time, itself. UTC unless it says.

    Raises:
        ConfigError: it is neither an ISO date nor an ISO time.
    """
    try:
        with suppress(ValueError):
            days = (date.fromisoformat(text) - _EPOCH.date()).days
            return (days + 1) * _DAY_MS - 1
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--as-of {text!r} is not a date or time", "Write it as 2025-01-31 or 2025-01-31T18:00:00+01:00."
        ) from error
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
