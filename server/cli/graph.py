"""`kgrank graph`: start, stop and look into the knowledge graph."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import GraphUnavailableError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from kg.store import Graph, Result
    from server.config import Settings

_PUBLISHED = "MATCH (m:ModelVersion {active: true}) RETURN count(m)"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    graph = typer.Typer(
        help="Start, stop and look into the knowledge graph.",
        epilog="Example: kgrank graph recipe overview",
        no_args_is_help=True,
    )
    graph.command("start", epilog="Example: kgrank graph start")(start)
    graph.command("stop", epilog="Example: kgrank graph stop")(stop)
    graph.command("status", epilog="Example: kgrank graph status --json")(status)
    graph.command("shell", epilog="Example: kgrank graph shell 'MATCH (b:Brand) RETURN b.name LIMIT 5'")(shell)
    graph.command("recipe", epilog="Example: kgrank graph recipe user_profile --param user=user-001")(recipe)
    app.add_typer(graph, name="graph")


def start(context: typer.Context, json: Json = False) -> None:
    """Start the embedded Neo4j and leave it running; every other command uses it."""
    from kg.embedded import start_in_background
    from kg.store import Graph

    settings = settings_of(context)
    if settings.graph.uri is not None:
        console.say(f"graph.uri names a server, {settings.graph.uri}: there is nothing to start")
    else:
        start_in_background(settings.graph_folder, settings.graph, console.say)
    with Graph.connect(settings.graph, settings.graph_folder) as graph:
        graph.ensure_schema()
    status(context, json)


def stop(context: typer.Context, json: Json = False) -> None:
    """Stop the embedded Neo4j in order."""
    from kg.embedded import stop as stop_embedded

    was_running = stop_embedded(settings_of(context).graph_folder)
    if json:
        console.emit_json({"was_running": was_running})
    else:
        console.say("the graph is stopped" if was_running else "the graph was not running")


def status(context: typer.Context, json: Json = False) -> None:
    """Say whether the graph runs, where, and what it holds; exit code 1 if it does not run."""
    settings = settings_of(context)
    facts = _facts(settings)
    if facts is None:
        if json:
            console.emit_json({"running": False})
            raise typer.Exit(console.EXIT_FAILED)
        raise GraphUnavailableError(f"no graph runs in {settings.graph_folder}", "Start it: kgrank graph start")
    if json:
        console.emit_json(facts)
        return
    console.emit_table("graph", ("what", "value"), [(name, value) for name, value in facts.items() if value != {}])


def _facts(settings: "Settings") -> dict[str, object] | None:
    """Return what is known about a running graph; None if none runs. Starts nothing."""
    from kg.embedded_files import read_endpoint
    from kg.store import Graph

    facts: dict[str, object] = {"running": True}
    if settings.graph.uri is None:
        endpoint = read_endpoint(settings.graph_folder)
        if endpoint is None:
            return None
        since = datetime.fromtimestamp(endpoint.started_at_ms / 1000, UTC).isoformat(timespec="seconds")
        facts |= {
            "folder": str(settings.graph_folder),
            "process": endpoint.pid,
            "since": since,
            "stays": endpoint.stays,
        }
    with Graph.connect(settings.graph, settings.graph_folder) as graph:
        facts["uri"] = graph.place
        facts["nodes"] = _counts(graph, "CALL db.labels() YIELD label RETURN label", "(x:{})")
        facts["relationships"] = _counts(
            graph, "CALL db.relationshipTypes() YIELD relationshipType AS t RETURN t", "()-[x:{}]->()"
        )
    return facts


def _counts(graph: "Graph", names: str, pattern: str) -> dict[str, int]:
    """Return how many there are of each label or type, from Neo4j's count store."""
    from kg.schema import quoted

    found = sorted(row[0] for row in graph.read(names))
    counts = {name: graph.read(f"MATCH {pattern.format(quoted(name))} RETURN count(x)")[0][0] for name in found}
    return {name: count for name, count in counts.items() if count}


def shell(
    context: typer.Context,
    cypher: Annotated[
        str | None, typer.Argument(help="A query; without it, queries are read from standard input, each ending in ;")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Allow queries that write.")] = False,
    json: Json = False,
) -> None:
    """Run Cypher, and show what it returns as a table; read-only unless `--write`."""
    from kg.store import Graph
    from server.cli.cypher_input import statements

    settings = settings_of(context)
    given = statements(cypher, settings.home / "graph_history")
    with Graph.connect(settings.graph, settings.graph_folder, console.say) as graph:
        for statement in given:
            show_result(graph.query(statement, write=write), json=json)


def show_result(result: "Result", *, title: str = "", json: bool) -> None:
    """Print what a query returned."""
    rows = result.plain_rows()
    if json:
        console.emit_json({"columns": result.columns, "rows": rows, "changes": result.changes})
        return
    if result.columns:
        console.emit_table(title, result.columns, rows)
    changes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in result.changes.items())
    console.say(changes or f"{len(rows):,} rows")


def recipe(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The recipe; without it, all are listed.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="May be repeated.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print its Cypher instead of running it.")] = False,
    json: Json = False,
) -> None:
    """Run a prepared exploration of the graph, or list them all."""
    from kg.recipes import load_recipe, load_recipes
    from kg.store import Graph

    if name is None:
        found = [(each.name, each.title, each.usage) for each in load_recipes()]
        if json:
            console.emit_json([dict(zip(("name", "title", "parameters"), row, strict=True)) for row in found])
        else:
            console.emit_table("recipes", ("name", "what it shows", "parameters"), found)
        return
    chosen = load_recipe(name)
    if show and json:
        console.emit_json(
            {"name": chosen.name, "title": chosen.title, "parameters": chosen.usage, "cypher": chosen.text}
        )
        return
    if show:
        sys.stdout.write(chosen.text)
        return
    parameters = chosen.bind(param or [])
    settings = settings_of(context)
    with Graph.connect(settings.graph, settings.graph_folder, console.say) as graph:
        result = graph.query(chosen.cypher, parameters)
        show_result(result, title=chosen.title, json=json)
        if chosen.needs_publish and not result.rows and not graph.read(_PUBLISHED)[0][0]:
            console.say("no model's results are in the graph: write them with kgrank publish")
