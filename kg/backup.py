"""The whole graph as two files, and back: every node and relationship with its properties, whatever the schema.

It is read while the graph goes on: the lock on the commit sequence is held meanwhile, so that everything written online
waits, and what is read is the graph at one commit. Community edition has no backup of its own while it runs.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg.errors import DataError, GraphError
from kg.progress import SILENT, Progress

if TYPE_CHECKING:
    from kg.store import Graph

NODES = "nodes.jsonl.gz"
RELATIONSHIPS = "relationships.jsonl.gz"

_ROWS = 5_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MARK = "Restoring"
_MARK_ID = "restoring_id"


def dump(graph: "Graph", folder: Path, progress: Progress = SILENT) -> dict[str, int]:
    """Write the graph into a folder; return how many nodes and relationships there are, and the last commit.

    Raises:
        GraphError: the store failed.
    """
    with graph.commits_held() as commit:
        nodes = _write(folder / NODES, _nodes(graph, progress))
        relationships = _write(folder / RELATIONSHIPS, _relationships(graph, progress))
    return {"nodes": nodes, "relationships": relationships, "commit": commit}


def restore(graph: "Graph", folder: Path, progress: Progress = SILENT) -> None:
    """Fill an empty graph from what `dump` wrote.

    Raises:
        GraphError: the graph is not empty, or the store failed; what was restored so far is left, see `clear`.
        DataError: a file is damaged.
    """
    if graph.read("MATCH (n) RETURN 1 LIMIT 1"):
        raise GraphError("the graph is not empty", "Restore into an empty one, or replace what is there: --replace")
    graph.write(f"CREATE CONSTRAINT restoring IF NOT EXISTS FOR (n:{_MARK}) REQUIRE n.{_MARK_ID} IS UNIQUE")
    graph.write("CALL db.awaitIndexes(300)")
    for labels, rows in _blocks(folder / NODES, lambda row: ":".join(_checked(label) for label in row["labels"])):
        graph.write(
            f"UNWIND $rows AS row CREATE (n:{_MARK}:{labels}) SET n = row.properties, n.{_MARK_ID} = row.id", rows
        )
        progress.advance(len(rows), "nodes")
    for type_, rows in _blocks(folder / RELATIONSHIPS, lambda row: _checked(row["type"])):
        graph.write(
            f"UNWIND $rows AS row MATCH (a:{_MARK} {{{_MARK_ID}: row.start}}) USING INDEX SEEK a:{_MARK}({_MARK_ID}) "
            f"MATCH (b:{_MARK} {{{_MARK_ID}: row.end}}) USING INDEX SEEK b:{_MARK}({_MARK_ID}) "
            f"CREATE (a)-[r:{type_}]->(b) SET r = row.properties",
            rows,
        )
        progress.advance(len(rows), "relationships")
    _repeat(graph, f"MATCH (n:{_MARK}) WITH n LIMIT $limit REMOVE n:{_MARK}, n.{_MARK_ID}", "labels_removed")
    graph.write("DROP CONSTRAINT restoring IF EXISTS")
    graph.ensure_schema()


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
        yield {"id": node_id, "labels": labels, "properties": properties}


def _relationships(graph: "Graph", progress: Progress) -> Iterator[dict[str, Any]]:
    cypher = "MATCH (a)-[r]->(b) RETURN type(r), elementId(a), elementId(b), properties(r)"
    for type_, start, end, properties in graph.stream(cypher):
        progress.advance(1, "relationships")
        yield {"type": type_, "start": start, "end": end, "properties": properties}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
    return count


def _blocks(path: Path, kind_of: Callable[[dict[str, Any]], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the rows of a file by what Cypher has to name: labels or type; in blocks."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                rows = waiting.setdefault(kind_of(row), [])
                rows.append(row)
                if len(rows) == _ROWS:
                    yield kind_of(row), rows
                    waiting[kind_of(row)] = []
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"backup file {path} is damaged: {error}", "Take another backup.") from error
    yield from ((kind, rows) for kind, rows in waiting.items() if rows)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(f"{name!r} in the backup is no label or relationship type", "The file is not ours.")
    return name
