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
    from kg.backup import half_restored
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
            if half_restored(graph):
                yield problem(
                    "graph",
                    "a restore into it was stopped, or is under way: it has a part of a backup",
                    "Run it again, to its end, in the home where it was begun: kgrank restore DIR --replace",
                )
            yield from _contents(graph)
            yield from _followed(graph, settings)
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


def _followed(graph: "Graph", settings: "Settings") -> Iterator[Finding]:
    """Ask whether a server could still read all that was written since its snapshot was exported."""
    from kg.snapshot import Snapshot
    from model.artifact import read_manifest
    from server.models import ModelFolder, snapshot_folder_for

    forgotten, models = graph.forgotten_until, ModelFolder(settings.artifacts_folder)
    version = models.active if forgotten else None
    folder = version and snapshot_folder_for(settings.snapshots_folder, read_manifest(models.folder / version))
    if not folder:
        return
    commit = Snapshot.open(folder, verify=False).commit
    if commit < forgotten:
        yield problem(
            "graph",
            f"snapshot {folder.name} ends at commit {commit}, and the graph no longer knows what was changed up to "
            f"commit {forgotten}: products, rules and erasures in between are not in the answers",
            "Export another snapshot, and serve a model on it: kgrank snapshot, kgrank train",
        )
