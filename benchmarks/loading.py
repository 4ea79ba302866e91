"""Loading and exporting, ours and the plain way in turn, in one Neo4j: prints one JSON line.

Loading: `Graph.load` of interactions into a graph that has none of their type, against a bare driver's loop of
`UNWIND $rows ... CREATE` with the same constraints in place. Exporting: `export_interactions` to an Arrow table,
against a query that returns a record per row, gathered into the same Arrow table.

    python benchmarks/loading.py [--interactions 200000] [--users 20000] [--products 10000]
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import neo4j
import numpy as np
import pyarrow as pa

from kg.config import GraphSettings
from kg.embedded import embedded
from kg.exporting import export_interactions
from kg.schema import RELATIONSHIP_OF
from kg.store import Graph
from kg.tables import INTERACTIONS, PRODUCTS, InteractionType, Tables

BARE_ROWS = 10_000
OURS = (InteractionType.PURCHASE, InteractionType.VIEW)
BARE = (InteractionType.CLICK, InteractionType.WISHLIST)
WARM_UP = {"ours": InteractionType.RATE, "bare": InteractionType.REVIEW}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=200_000, help="of each of the two turns")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--products", type=int, default=10_000)
    sizes = parser.parse_args()
    generator = np.random.default_rng(0)
    settings = GraphSettings()
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder), settings) as endpoint,
        Graph.connect(settings, Path(folder)) as graph,
        neo4j.GraphDatabase.driver(endpoint.uri, auth=(endpoint.user, endpoint.password)) as driver,
    ):
        figures = measure(graph, driver, sizes, generator)
    print(json.dumps(figures))


def measure(
    graph: Graph, driver: neo4j.Driver, sizes: argparse.Namespace, generator: np.random.Generator
) -> dict[str, Any]:
    graph.ensure_schema()
    ids = [f"product-{number:07d}" for number in range(sizes.products)]
    neutral = {"title": "", "description": "", "brand": "", "category": [], "price": None, "attributes": []}
    graph.load(Tables(products=pa.Table.from_pylist([{"product_id": each} | neutral for each in ids], schema=PRODUCTS)))
    users = [f"user-{number:07d}" for number in range(sizes.users)]
    graph.write("UNWIND $rows AS id MERGE (:User {id: id})", users)

    def events(kind: InteractionType, count: int) -> pa.Table:
        at_ms = np.sort(generator.integers(1_600_000_000_000, 1_700_000_000_000, count))
        return pa.table(
            {
                "user_id": np.array(users)[generator.integers(0, sizes.users, count)],
                "product_id": np.array(ids)[generator.zipf(1.3, count) % sizes.products],
                "type": [str(kind)] * count,
                "at_ms": at_ms,
                "value": pa.array(np.ones(count), pa.float32()),
                "position": np.arange(count),
                "event_id": [f"{kind}-{number:016x}" for number in range(count)],
            },
            schema=INTERACTIONS,
        )

    load_ours(graph, events(WARM_UP["ours"], sizes.interactions // 4))
    load_bare(driver, events(WARM_UP["bare"], sizes.interactions // 4), WARM_UP["bare"])
    seconds: dict[str, float] = {"ours": 0.0, "bare": 0.0, "reload": 0.0, "export_ours": 0.0, "export_rows": 0.0}
    for ours, bare in zip(OURS, BARE, strict=True):
        seconds["bare"] += timed(load_bare, driver, events(bare, sizes.interactions), bare)
        table = events(ours, sizes.interactions)
        seconds["ours"] += timed(load_ours, graph, table)
        seconds["reload"] += timed(load_ours, graph, table)
    total = int(graph.read("MATCH (:User)-[r]->(:Product) RETURN count(r)")[0][0])
    export_rows(driver)  # each query's plan and the JVM's compiler warm up, as loading did
    export_ours(graph, total)
    for _ in range(3):
        seconds["export_rows"] += timed(export_rows, driver)
        seconds["export_ours"] += timed(export_ours, graph, total)
    loaded, exported = 2 * sizes.interactions, 3 * total
    return {
        "benchmark": "loading",
        "load_ours_per_s": round(loaded / seconds["ours"]),
        "load_bare_per_s": round(loaded / seconds["bare"]),
        "load_ratio": round(seconds["bare"] / seconds["ours"], 2),
        "reload_per_s": round(loaded / seconds["reload"]),
        "export_ours_per_s": round(exported / seconds["export_ours"]),
        "export_rows_per_s": round(exported / seconds["export_rows"]),
        "export_ratio": round(seconds["export_rows"] / seconds["export_ours"], 2),
        "interactions": total,
        "users": sizes.users,
        "products": sizes.products,
        "neo4j": graph.read("CALL dbms.components() YIELD versions RETURN versions[0]")[0][0],
        "driver": version("neo4j"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def timed(work: Callable[..., None], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def load_ours(graph: Graph, table: pa.Table) -> None:
    graph.load(Tables(interactions=table))


def load_bare(driver: neo4j.Driver, table: pa.Table, kind: InteractionType) -> None:
    cypher = (
        "UNWIND $rows AS row MATCH (u:User {id: row.user_id}) MATCH (p:Product {id: row.product_id}) "
        f"CREATE (u)-[:{RELATIONSHIP_OF[kind].type} {{event_id: row.event_id, at: row.at_ms, value: row.value, "
        "position: row.position}]->(p)"
    )
    with driver.session() as session:
        for start in range(0, len(table), BARE_ROWS):
            rows = table.slice(start, BARE_ROWS).to_pylist()
            session.execute_write(lambda transaction, rows=rows: transaction.run(cypher, rows=rows).consume())


def export_rows(driver: neo4j.Driver) -> None:
    types = {each.type: str(kind) for kind, each in RELATIONSHIP_OF.items()}
    cypher = (
        "MATCH (u:User)-[r]->(p:Product) RETURN u.id AS user_id, p.id AS product_id, type(r) AS type, r.at AS at_ms, "
        "r.value AS value, r.position AS position, r.event_id AS event_id"
    )
    with driver.session() as session:
        rows = session.execute_read(
            lambda transaction: [{**record.data(), "type": types[record["type"]]} for record in transaction.run(cypher)]
        )
    pa.Table.from_pylist(rows, schema=INTERACTIONS)


def export_ours(graph: Graph, count: int) -> None:
    table = export_interactions(graph)
    if len(table) != count:
        raise SystemExit(f"exported {len(table)} rows of {count}")


if __name__ == "__main__":
    main()
