"""The real Neo4j for all tests that need one: started once a process (pytest-xdist worker), cleaned between tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kg.config import GraphSettings
from kg.embedded_jars import locked_jars
from kg.errors import JarFetchError
from kg.store import Graph

# Tests run many queries once each: the JVM's quick compiler alone starts and plans in two thirds of the time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

# Tests assert no speed: that a machine stands still for a moment refutes nothing. Everywhere they draw anew, also where
# CI is set.
settings.register_profile(
    "any-speed", settings.get_profile("default"), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-speed")

GRAPH_SETTINGS = GraphSettings(heap_mib=512, page_cache_mib=64, start_timeout_s=600)


@pytest.fixture(scope="session")
def neo4j_jars() -> list[Path]:
    """The locked jars; only a machine that never had them needs the registry."""
    return jars_or_skip()


def jars_or_skip() -> list[Path]:
    """Return the locked jars; where they can't be fetched, skip, unless the variable `CI` says that all must run."""
    try:
        return locked_jars()
    except JarFetchError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs the registry once: {error.problem}")


@pytest.fixture(scope="session")
def graph_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared Neo4j; it runs as soon as a test asks for `graph`."""
    return tmp_path_factory.mktemp("neo4j") / "graph"


@pytest.fixture(scope="session")
def shared_graph(graph_folder: Path, neo4j_jars: list[Path]) -> Iterator[Graph]:
    """The shared Neo4j with its schema; use `graph`, which is clean."""
    with Graph.connect(GRAPH_SETTINGS, graph_folder) as graph:
        graph.ensure_schema()
        yield graph


@pytest.fixture
def graph(shared_graph: Graph) -> Iterator[Graph]:
    """An empty graph with its schema."""
    yield shared_graph
    empty(shared_graph)


@pytest.fixture
def graph_home(graph: Graph, graph_folder: Path, tmp_path: Path) -> Path:
    """A home folder whose graph is the shared Neo4j, empty: what `KGRANK_HOME` may name."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "graph").symlink_to(graph_folder)
    return home


def empty(graph: Graph) -> None:
    """Remove every node and relationship; constraints stay."""
    graph.write("MATCH (n) DETACH DELETE n")
