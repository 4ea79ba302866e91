"""Does Neo4j answer, and has it what we need?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kg.errors import KgrankError
from server.doctor.findings import Finding, ok, problem, skipped, warning

if TYPE_CHECKING:
    from kg.store import Graph
    from server.config import Settings


def check_graph(settings: "Settings") -> Iterator[Finding]:
    """Ask the graph; an embedded one that does not run is not started."""
    from kg.embedded_files import read_endpoint
    from kg.store import Graph

    folder = settings.graph_folder
    if settings.graph.uri is None and (not folder.is_dir() or read_endpoint(folder) is None):
        yield skipped("graph", f"the embedded Neo4j in {folder} does not run now", "To look at it: kgrank graph start")
        return
    where = settings.graph.uri or f"the embedded Neo4j in {folder}"
    try:
        with Graph.connect(settings.graph, folder) as graph:
            yield ok("graph", f"{where} answers")
            yield from _contents(graph)
    except KgrankError as error:
        yield problem("graph", error.problem, error.remedy)


def _contents(graph: "Graph") -> Iterator[Finding]:
    [[products]] = graph.read("MATCH (p:Product) RETURN count(p)")
    if products:
        yield ok("graph", f"it holds {products:,} products")
    else:
        yield warning("graph", "it holds no products", "Load some: kgrank load")
    constraints = {row[0] for row in graph.read("SHOW CONSTRAINTS YIELD name RETURN name")}
    if not constraints:
        yield warning("graph", "it has no constraints, so that looking things up is slow", "`kgrank load` makes them.")
    failed = [row[0] for row in graph.read("SHOW INDEXES YIELD name, state WHERE state = 'FAILED' RETURN name")]
    for name in failed:
        yield problem("graph", f"its index {name} has failed", f"DROP INDEX {name} in Neo4j; a load makes it again.")
