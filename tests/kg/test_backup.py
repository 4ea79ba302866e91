"""What the graph holds is in its backup: any label, any type of value, and what can't be said at once."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kg.backup import clear, dump, restore, verify
from kg.errors import BackupError, DataError
from kg.publish import publish
from kg.schema import quoted
from kg.store import Graph
from tests.kg.small_tables import SMALL

pytestmark = pytest.mark.neo4j

NAMES = ["Größe", "two words", "a`b", "back\\slash", "a\\u0060) DETACH DELETE (n", "`", "1"]
VALUES = [
    "date('2025-01-31')",
    "[date('2025-01-31'), date('2024-02-29')]",
    "time('10:11:12.123456789-04:30')",
    "localtime('10:11:12.5')",
    "localdatetime('2025-01-31T10:11:12.123456789')",
    "datetime('2025-01-31T10:11:12.123456789Z')",
    "datetime('2025-01-31T10:11:12-04:30')",
    "datetime('2025-07-31T10:11:12[America/St_Johns]')",
    "datetime({epochSeconds: 1761438600, timezone: 'Europe/Berlin'})",  # 2:30 in summer, an hour before 2:30 in winter
    "duration('P1Y2M3DT-4H5M6.789S')",
    "[duration('P1D')]",
    "point({x: 1, y: 2})",
    "point({x: 1, y: 2, z: 3})",
    "point({latitude: 52.5, longitude: 13.4})",
    "[point({latitude: 52.5, longitude: 13.4, height: 34})]",
    "1.0 / 0.0",
    "[true, false]",
    "[]",
]


def test_values_of_every_type_come_back_as_they_were(graph: Graph, tmp_path: Path) -> None:
    properties = ", ".join(f"v{place}: {value}" for place, value in enumerate(VALUES))
    graph.write(f"CREATE (:Shelf {{id: 'a', {properties}, raw: $raw}})-[:NEXT {{{properties}}}]->()", raw=b"\x00\xff")
    dump(graph, tmp_path)
    clear(graph)
    restore(graph, tmp_path)
    for pattern in ("(x:Shelf)", "()-[x:NEXT]->()"):
        for place, value in enumerate(VALUES):
            found = f"MATCH {pattern} RETURN x.v{place} = {value}, valueType(x.v{place}) = valueType({value})"
            assert graph.read(found) == [[True, True]], (pattern, value)
    assert graph.read("MATCH (x:Shelf) RETURN x.raw") == [[b"\x00\xff"]]


def test_labels_and_types_of_any_name_and_nodes_without_a_label_come_back(graph: Graph, tmp_path: Path) -> None:
    for name in NAMES:
        graph.write(f"CREATE (:{quoted(name)}:Note {{name: $name}})-[:{quoted(name)}]->({{of: $name}})", name=name)
    before = everything(graph)
    assert len(before) == len(NAMES)
    dump(graph, tmp_path)
    clear(graph)
    restore(graph, tmp_path)
    assert everything(graph) == before
    assert graph.read("MATCH (n) RETURN count(n)") == [[2 * len(NAMES)]]


def everything(graph: Graph) -> list[list[Any]]:
    return graph.read(
        "MATCH (a)-[r]->(b) RETURN labels(a), properties(a), type(r), labels(b), properties(b) ORDER BY a.name"
    )


@pytest.mark.parametrize(
    ("made", "pattern"),
    [
        ("CREATE (:Größe {since: date({year: 12000})})", "(n:`Größe`)"),
        ("CREATE ()-[:AT {since: date({year: 12000})}]->()", "()-[n:`AT`]->()"),
    ],
)
def test_a_value_that_a_backup_can_not_hold_is_said_when_it_is_taken(
    graph: Graph, tmp_path: Path, made: str, pattern: str
) -> None:
    graph.write(made)
    with pytest.raises(BackupError) as raised:
        dump(graph, tmp_path)
    assert f"'since' of {pattern}" in raised.value.problem
    graph.write(raised.value.remedy.partition(": ")[2])  # the remedy is one
    dump(graph, tmp_path)
    verify(tmp_path)


def test_a_value_of_no_known_type_is_a_damaged_file(graph: Graph, tmp_path: Path) -> None:
    graph.write("CREATE (:Note {on: date('2025-01-31')})")
    dump(graph, tmp_path)
    verify(tmp_path)
    path = tmp_path / "nodes.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"date"', b'"day"')))
    with pytest.raises(DataError, match=r"nodes\.jsonl\.gz is damaged"):
        verify(tmp_path)


@pytest.mark.parametrize("published", [True, False])
def test_a_restored_graph_has_the_indexes_that_readers_of_a_publication_need(
    graph: Graph, tmp_path: Path, published: bool
) -> None:
    graph.load(SMALL)
    if published:
        publish(graph, "m1", pa.array(["cup"]), np.ones((1, 4), np.float32), [])
    dump(graph, tmp_path)
    clear(graph)
    for name in ("product_embedding", "recommended_model"):
        graph.write(f"DROP INDEX {name} IF EXISTS")
    restore(graph, tmp_path)
    found = graph.read("SHOW INDEXES YIELD name RETURN name")
    assert [[name] in found for name in ("product_embedding", "recommended_model")] == [published] * 2
