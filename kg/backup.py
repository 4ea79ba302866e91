"""The whole graph as two files, and back: every node and relationship with its properties, whatever the schema.

It is read while the graph goes on: the lock on the commit sequence is held meanwhile, so that everything written online
waits, and what is read is the graph at one commit. Community edition has no backup of its own while it runs.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg.errors import BackupError, DataError, GraphError
from kg.progress import SILENT, Progress
from kg.property_values import from_json, to_json
from kg.publish import make_indexes
from kg.schema import quoted

if TYPE_CHECKING:
    from kg.store import Graph

NODES = "nodes.jsonl.gz"
RELATIONSHIPS = "relationships.jsonl.gz"

_ROWS = 5_000
_MARK = "Restoring"
_MARK_ID = "restoring_id"


def dump(
    graph: "Graph", folder: Path, progress: Progress = SILENT, then: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Write the graph into a folder; return how many nodes and relationships there are, and the last commit.

    Args:
        graph: an open graph.
        folder: where the files go.
        progress: advances by one for each node and relationship.
        then: called before another commit can begin.

    Raises:
        BackupError: a property's value can't be written, or the folder can't.
        GraphError: the store failed.
    """
    with graph.commits_held() as commit:
        nodes = _write(folder / NODES, _nodes(graph, progress))
        relationships = _write(folder / RELATIONSHIPS, _relationships(graph, progress))
        then()
    return {"nodes": nodes, "relationships": relationships, "commit": commit}


def verify(folder: Path) -> None:
    """Read what `dump` wrote, as `restore` will, and touch no graph.

    Raises:
        DataError: a file is damaged.
    """
    for name, kind_of in ((NODES, _labels), (RELATIONSHIPS, _type)):
        for _ in _blocks(folder / name, kind_of):
            pass


def restore(graph: "Graph", folder: Path, progress: Progress = SILENT, then: Callable[[], None] = lambda: None) -> None:
    """Fill an empty graph from what `dump` wrote.

    Args:
        graph: an open graph.
        folder: where the files are.
        progress: advances by one for each node and relationship.
        then: called once all is there; the graph is half restored until it is done, too.

    Raises:
        GraphError: the graph is not empty, or the store failed; what was restored so far is left, see `clear`.
        DataError: a file is damaged.
    """
    refuse_filled(graph)
    graph.write(f"CREATE CONSTRAINT restoring IF NOT EXISTS FOR (n:{_MARK}) REQUIRE n.{_MARK_ID} IS UNIQUE")
    graph.write("CALL db.awaitIndexes(300)")
    for labels, rows in _blocks(folder / NODES, _labels):
        graph.write(
            f"UNWIND $rows AS row CREATE (n:{_MARK}{labels}) SET n = row.properties, n.{_MARK_ID} = row.id", rows
        )
        progress.advance(len(rows), "nodes")
    for type_, rows in _blocks(folder / RELATIONSHIPS, _type):
        graph.write(
            f"UNWIND $rows AS row MATCH (a:{_MARK} {{{_MARK_ID}: row.start}}) USING INDEX SEEK a:{_MARK}({_MARK_ID}) "
            f"MATCH (b:{_MARK} {{{_MARK_ID}: row.end}}) USING INDEX SEEK b:{_MARK}({_MARK_ID}) "
            f"CREATE (a)-[r:{type_}]->(b) SET r = row.properties",
            rows,
        )
        progress.advance(len(rows), "relationships")
    graph.ensure_schema()
    if graph.read("MATCH (m:ModelVersion) RETURN 1 LIMIT 1"):
        make_indexes(graph)
    then()
    _repeat(graph, f"MATCH (n:{_MARK}) WITH n LIMIT $limit REMOVE n:{_MARK}, n.{_MARK_ID}", "labels_removed")
    graph.write("DROP CONSTRAINT restoring IF EXISTS")


def refuse_filled(graph: "Graph") -> None:
    """Raise where a graph has anything.

    Raises:
        GraphError: it has.
    """
    if graph.read("MATCH (n) RETURN 1 LIMIT 1"):
        raise GraphError("the graph is not empty", "Restore into an empty one, or replace what is there: --replace")


def half_restored(graph: "Graph") -> bool:
    """Return whether a restore that filled the graph has not come to its end."""
    return bool(graph.read(f"MATCH (n:{_MARK}) RETURN 1 LIMIT 1"))


def clear(graph: "Graph") -> None:
    """Remove everything from a graph."""
    _repeat(graph, "MATCH ()-[r]->() WITH r LIMIT $limit DELETE r", "relationships_deleted")
    _repeat(graph, "MATCH (n) WITH n LIMIT $limit DELETE n", "nodes_deleted")


def _repeat(graph: "Graph", cypher: str, change: str) -> None:
    while graph.write(cypher, limit=2 * _ROWS).changes.get(change):
        pass


def _nodes(graph: "Graph", progress: Progress) -> Iterator[dict[str, Any]]:
    for node_id, labels, properties in graph.stream("MATCH (n) RETURN elementId(n), labels(n), properties(n)"):
        progress.advance(1, "nodes")
        yield _storable({"id": node_id, "labels": labels, "properties": properties}, lambda row: f"(n{_labels(row)})")


def _relationships(graph: "Graph", progress: Progress) -> Iterator[dict[str, Any]]:
    cypher = "MATCH (a)-[r]->(b) RETURN type(r), elementId(a), elementId(b), properties(r)"
    for type_, start, end, properties in graph.stream(cypher):
        progress.advance(1, "relationships")
        row = {"type": type_, "start": start, "end": end, "properties": properties}
        yield _storable(row, lambda row: f"()-[n:{_type(row)}]->()")


def _storable(row: dict[str, Any], pattern_of: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Return a row with its properties as JSON can have them; the pattern finds it again."""
    stored = {}
    for name, value in row["properties"].items():
        try:
            stored[name] = to_json(value)
        except TypeError as error:
            pattern = pattern_of(row)
            raise BackupError(
                f"property {name!r} of {pattern} has a value that a backup can't hold: {error}",
                f"Store it as text: MATCH {pattern} SET n.{quoted(name)} = toString(n.{quoted(name)})",
            ) from error
    return {**row, "properties": stored}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    try:
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
                count += 1
    except OSError as error:
        raise BackupError(f"{path} can't be written: {error}", "Free space, or choose another disk.") from error
    return count


def _blocks(path: Path, kind_of: Callable[[dict[str, Any]], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the rows of a file by what Cypher has to name: labels or type; in blocks."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                row["properties"] = {name: from_json(value) for name, value in row["properties"].items()}
                rows = waiting.setdefault(kind_of(row), [])
                rows.append(row)
                if len(rows) == _ROWS:
                    yield kind_of(row), rows
                    waiting[kind_of(row)] = []
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"backup file {path} is damaged: {error}", "Take another backup.") from error
    yield from ((kind, rows) for kind, rows in waiting.items() if rows)


def _labels(row: dict[str, Any]) -> str:
    return "".join(f":{quoted(label)}" for label in row["labels"])


def _type(row: dict[str, Any]) -> str:
    return quoted(row["type"])
