"""`kgrank backup` and `kgrank restore`: everything that can't be made again, to a folder and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from server.cli import console
from server.cli.app import Json, settings_of, settings_of_whole

Folder = Annotated[Path, typer.Argument(help="The backup's folder.", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup", epilog="Example: kgrank backup /backups/2026-11-22")(take)
    app.command("restore", epilog="Example: kgrank restore /backups/2026-11-22 --replace")(put_back)


def take(context: typer.Context, folder: Folder, json: Json = False) -> None:
    """Copy graph, journals, snapshots and artifacts to a new folder; servers go on meanwhile."""
    from kg.exporting import row_count
    from kg.store import Graph
    from server.backup import backup

    settings = settings_of_whole(context)
    with (
        Graph.connect(settings.graph, settings.graph_folder, console.say) as graph,
        console.meter("reading the graph", row_count(graph)) as meter,
    ):
        manifest = backup(settings.home, graph, folder, meter)
    if not manifest.graph["nodes"]:
        console.say("the graph has no node: is it the right one? See graph.uri and KGRANK_NEO4J_URI")
    if json:
        console.emit_json({"folder": str(folder), **asdict(manifest)})
        return
    size = sum((folder / name).stat().st_size for name in manifest.files)
    rows = [(what, f"{count:,}") for what, count in manifest.graph.items()]
    rows += [
        ("journals", f"{len(manifest.journals)}"),
        ("files", f"{len(manifest.files)}"),
        ("MB", f"{size / 1e6:,.1f}"),
    ]
    console.emit_table(f"backup {folder}", ("what", "count"), rows)


def put_back(
    context: typer.Context,
    folder: Folder,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in place of what is there now: graph and files.")
    ] = False,
    graph_of_others: Annotated[
        bool,
        typer.Option("--graph-of-others", help="Replace the graph even if only servers of other homes wrote to it."),
    ] = False,
    drop_newer: Annotated[
        bool, typer.Option("--drop-newer", help="Drop what the journals here have beyond the backup.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup back into this home and its graph; no server may run here."""
    from kg.store import Graph
    from server.backup import read_backup, restore

    settings = settings_of(context)
    counts = read_backup(folder).graph
    with (
        Graph.connect(settings.graph, settings.graph_folder, console.say) as graph,
        console.meter("filling the graph", counts["nodes"] + counts["relationships"]) as meter,
    ):
        graph.ensure_schema()
        manifest = restore(
            settings.home,
            graph,
            folder,
            replace=replace,
            graph_of_others=graph_of_others or settings.graph.uri is None,  # the embedded one is this home's
            drop_newer=drop_newer,
            progress=meter,
        )
    if json:
        console.emit_json({"home": str(settings.home), **asdict(manifest)})
        return
    console.say(f"restored {folder} to {settings.home}: start the server, which gives the graph what its journals have")
