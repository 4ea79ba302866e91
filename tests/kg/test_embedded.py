"""The embedded Neo4j as a process: who may use it, when it leaves, and what survives a kill."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import neo4j
import neo4j.exceptions
import pytest

from kg.embedded import _start_error, embedded, start_in_background, stop
from kg.embedded_files import STATE_FILE, Endpoint, is_held, read_endpoint
from kg.embedded_jars import LOCK_FILE, LOCKED_BY, locked_jars
from kg.errors import GraphAuthError, GraphError, GraphFullError, GraphUnavailableError
from kg.store import Graph
from tests.conftest import GRAPH_SETTINGS
from tests.kg.small_tables import SMALL, event, same_rows, tables
from tests.small_disk import fill, small_disk
from tests.waiting import until

pytestmark = [pytest.mark.neo4j, pytest.mark.usefixtures("neo4j_jars")]


def test_the_state_file_is_private_and_holds_the_only_copy_of_the_password(graph: Graph, graph_folder: Path) -> None:
    endpoint = running(graph_folder)
    assert (graph_folder / STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert len(endpoint.password) >= 32
    assert endpoint.password not in repr(endpoint)
    assert endpoint.password not in Path(f"/proc/{endpoint.pid}/cmdline").read_text()
    assert endpoint.password.encode() not in Path(f"/proc/{endpoint.pid}/environ").read_bytes()
    for log in [graph_folder / "child.log", *(graph_folder / "logs").iterdir()]:
        assert endpoint.password.encode() not in log.read_bytes(), log


USE_JARS = """
from kg.embedded_jars import locked_jars; from kg.errors import GraphError
try: print('used', locked_jars())
except GraphError as error: print(error.problem)
"""


def test_it_listens_on_loopback_only(graph: Graph, graph_folder: Path) -> None:
    port = int(running(graph_folder).uri.rpartition(":")[2])
    listening = [line.split()[1] for line in _tcp_lines() if line.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [_loopback(port)] or any(
        place.startswith("0" * 16 + "FFFF0000") and place.endswith(f"0100007F:{port:04X}") for place in listening
    )


def test_a_second_user_of_the_folder_shares_the_running_one(graph: Graph, graph_folder: Path) -> None:
    graph.load(SMALL)
    with Graph.connect(GRAPH_SETTINGS, graph_folder) as other:
        assert other.place == graph.place
        assert same_rows(other.export(), SMALL)
    assert graph.read("RETURN 1") == [[1]]


def test_of_two_commands_that_start_it_at_once_the_second_shares_the_first_ones(
    graph: Graph, graph_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()

    def jars(told: Any) -> list[Path]:  # it has looked, and nothing ran; before its own one runs, another does
        folder.rename(tmp_path / "as it was")
        folder.symlink_to(graph_folder)
        return locked_jars(told)

    monkeypatch.setattr("kg.embedded.locked_jars", jars)
    with embedded(folder, GRAPH_SETTINGS) as endpoint:
        assert endpoint == running(graph_folder)
    assert graph.read("RETURN 1") == [[1]]


def test_starting_it_twice_is_refused(graph: Graph, graph_folder: Path) -> None:
    with pytest.raises(GraphError, match="running already"):
        start_in_background(graph_folder, GRAPH_SETTINGS)


def test_a_wrong_password_is_said_in_one_sentence(graph: Graph) -> None:
    settings = GRAPH_SETTINGS.model_copy(update={"uri": graph.place})
    settings = type(settings).model_validate({**settings.model_dump(), "password": "wrong"})
    with pytest.raises(GraphAuthError, match="refuses this user or password"), Graph.connect(settings, Path()):
        pass


def test_a_server_that_is_not_there_is_said_in_one_sentence() -> None:
    settings = type(GRAPH_SETTINGS).model_validate({"uri": "bolt://127.0.0.1:1", "password": "x"})
    with pytest.raises(GraphUnavailableError, match="does not answer"), Graph.connect(settings, Path()):
        pass


@pytest.mark.parametrize("uri", ["127.0.0.1", "http://127.0.0.1", "bolt://"])
def test_an_address_that_is_none_is_said_in_one_sentence(uri: str) -> None:
    settings = type(GRAPH_SETTINGS).model_validate({"uri": uri, "password": "x"})
    with pytest.raises(GraphError), Graph.connect(settings, Path()):
        pass


def test_a_taken_port_is_said_in_one_sentence(graph: Graph, tmp_path: Path) -> None:
    taken = int(graph.place.rpartition(":")[2])
    settings = GRAPH_SETTINGS.model_copy(update={"port": taken})
    with pytest.raises(GraphError, match=f"graph.port {taken}"), embedded(tmp_path / "graph", settings):
        pass


def test_no_network_at_the_first_start_is_said_in_one_sentence(tmp_path: Path) -> None:
    done = python(
        "from pathlib import Path; from kg.embedded_jars import locked_jars; from kg.errors import GraphError\n"
        "try: locked_jars()\n"
        "except GraphError as error: print(error.problem)",
        M2_REPO=str(tmp_path),
        HTTPS_PROXY="http://127.0.0.1:1",
        https_proxy="http://127.0.0.1:1",
    )
    assert "can't be fetched" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert "://" not in done.stdout


def test_a_jar_that_was_changed_is_not_used(tmp_path: Path, neo4j_jars: list[Path]) -> None:
    victim = _repository_of_links(tmp_path, neo4j_jars)
    victim.unlink()
    victim.write_bytes(b"not the jar")
    done = python(USE_JARS, **_cut_off(tmp_path))
    assert victim.name in done.stdout, done.stderr
    assert not done.stdout.startswith("used")


def test_a_jar_that_another_process_is_fetching_is_waited_for(tmp_path: Path, neo4j_jars: list[Path]) -> None:
    fetched = _repository_of_links(tmp_path, neo4j_jars)
    fetched.unlink()
    fetched.write_bytes(b"the first half of the jar")
    with (tmp_path / LOCKED_BY).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = subprocess.Popen(
            [sys.executable, "-c", USE_JARS], env=os.environ | _cut_off(tmp_path), stdout=subprocess.PIPE, text=True
        )
        while not _waits_for_a_lock(other.pid):
            assert other.poll() is None
        fetched.unlink()
        fetched.symlink_to(neo4j_jars[0])
    told, _ = other.communicate(timeout=240)
    assert told.startswith("used")


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, "1m"),
        pytest.raises(GraphFullError, match=r"disk of .* is full"),
        embedded(tmp_path / "graph", GRAPH_SETTINGS),
    ):
        pass


def test_too_few_files_are_not_taken_for_too_little_memory(tmp_path: Path) -> None:
    error = _start_error("epoll_create1() failed: Too many open files", tmp_path)
    assert "may not open enough files" in error.problem
    assert "ulimit -n" in error.remedy
    assert "heap_mib" not in error.remedy


@pytest.mark.slow
def test_on_a_full_disk_writes_are_refused_and_reads_are_answered(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200m") as disk, Graph.connect(GRAPH_SETTINGS, disk / "graph") as graph:
        graph.write("CREATE (:Kept)")
        in_the_way = fill(disk)
        with pytest.raises(GraphFullError, match="0 MiB are free and the embedded Neo4j needs 64"):
            graph.write("CREATE (:Refused)")
        with pytest.raises(GraphFullError):
            graph.commit(lambda commit: commit.run("CREATE (:Refused)"))
        assert graph.read("MATCH (n) RETURN labels(n)[0]") == [["Kept"]]
        in_the_way.unlink()
        graph.write("CREATE (:Later)")
        assert graph.read("MATCH (n) RETURN labels(n)[0] AS label ORDER BY label") == [["Kept"], ["Later"]]


@pytest.mark.slow
def test_a_disk_that_fills_up_under_a_transaction_costs_that_alone(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200m") as disk:
        folder = disk / "graph"
        with background(folder) as endpoint:
            with (
                neo4j.GraphDatabase.driver(endpoint.uri, auth=(endpoint.user, endpoint.password)) as driver,
                driver.session() as session,
            ):
                session.run("CREATE (:Kept {text: $text})", text="x" * 1000).consume()
                in_the_way = fill(disk)
                # By others than `Graph`, which would not try; they are told of it, or the connection ends before.
                with pytest.raises((neo4j.exceptions.Neo4jError, neo4j.exceptions.ServiceUnavailable)):
                    session.run("UNWIND range(1, 10000) AS n CREATE (:Lost {text: $text})", text="x" * 997).consume()
            until(lambda: not is_held(folder), timeout_s=30)  # it has left by itself
            in_the_way.unlink()
        with Graph.connect(GRAPH_SETTINGS, folder) as graph:
            assert graph.read("MATCH (n:Kept) RETURN size(n.text)") == [[1000]]
            graph.write("CREATE (:Later)")


def test_a_jvm_that_can_not_start_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseSerialGC")  # beside our own collector: refused, on stdout
    with pytest.raises(GraphError, match="can't start") as caught, embedded(tmp_path / "graph", GRAPH_SETTINGS):
        pass
    log = tmp_path / "graph" / "child.log"
    assert str(log) in caught.value.remedy
    assert "graph.heap_mib" in caught.value.remedy
    assert "Multiple garbage collectors" in log.read_text()


def test_the_lock_names_no_host() -> None:
    assert "://" not in LOCK_FILE.read_text()


@pytest.mark.slow
def test_a_killed_load_run_again_ends_in_the_same_graph(tmp_path: Path) -> None:
    """kill -9 of the loading process, then of Neo4j itself, each in the middle of a load."""
    folder = tmp_path / "graph"
    with background(folder) as endpoint:
        with start_loading(folder) as loading:
            wait_for_progress(loading)
            loading.kill()
        assert read_endpoint(folder) == endpoint  # the graph outlives who loads into it
        with start_loading(folder) as loading:
            wait_for_progress(loading)
            os.kill(endpoint.pid, signal.SIGKILL)
            loading.kill()
    with Graph.connect(GRAPH_SETTINGS, folder) as graph:
        graph.load(tables(**ROWS))
        assert same_rows(graph.export(), tables(**ROWS))
    assert not is_held(folder)


@pytest.mark.slow
def test_neo4j_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "written\n"
        child = running(folder).pid
        parent.kill()
    wait_until_gone(child)
    with Graph.connect(GRAPH_SETTINGS, folder) as graph:
        assert graph.read("MATCH (u:User) RETURN u.id") == [["written"]]


# Parts

CONNECT = """
import sys
from pathlib import Path
from kg.store import Graph
from tests.conftest import GRAPH_SETTINGS
"""
PARENT = (
    CONNECT
    + """
with Graph.connect(GRAPH_SETTINGS, Path(sys.argv[1])) as graph:
    graph.write("CREATE (:User {id: 'written'})")
    print("written", flush=True)
    sys.stdin.read()
"""
)
LOADING = (
    CONNECT
    + """
from tests.kg.small_tables import tables
from tests.kg.test_embedded import ROWS
class Line:
    def advance(self, count=1, note=""):
        if note == "PURCHASED":
            print(count, flush=True)
with Graph.connect(GRAPH_SETTINGS, Path(sys.argv[1])) as graph:
    graph.ensure_schema()
    graph.load(tables(**ROWS), Line())
"""
)
ROWS: dict[str, list[dict[str, Any]]] = {
    "products": [{"product_id": f"p{n}", "brand": f"b{n % 7}"} for n in range(500)],
    "interactions": [event(f"e{n}", f"u{n % 300}", f"p{n % 499}", at_ms=n, position=n) for n in range(25_000)],
}
ROOT = Path(__file__).parents[2]


def running(folder: Path) -> Endpoint:
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    return endpoint


@contextlib.contextmanager
def background(folder: Path) -> Iterator[Endpoint]:
    try:
        yield start_in_background(folder, GRAPH_SETTINGS)
    finally:
        stop(folder)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "", "no_proxy": "", **environment},
        check=False,
    )


def start_loading(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LOADING, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )


def wait_for_progress(loading: "subprocess.Popen[str]") -> None:
    assert loading.stdout is not None
    assert loading.stdout.readline().strip().isdigit()


def wait_until_gone(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 120)[0]
        finally:
            os.close(descriptor)


def _tcp_lines() -> list[str]:
    return [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:] if line]


def _loopback(port: int) -> str:
    return f"0100007F:{port:04X}"


def _repository_of_links(folder: Path, jars: list[Path]) -> Path:
    """Fill a Maven repository with links to the jars; return the first link."""
    repository = Path(os.environ.get("M2_REPO", Path.home() / ".m2" / "repository"))
    for jar in jars:
        link = folder / jar.relative_to(repository)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(jar)
    return folder / jars[0].relative_to(repository)


def _cut_off(repository: Path) -> dict[str, str]:
    """Return the environment of a process with a repository and no network."""
    nowhere = "http://127.0.0.1:1"
    return {"M2_REPO": str(repository), "HTTPS_PROXY": nowhere, "https_proxy": nowhere}


def _waits_for_a_lock(pid: int) -> bool:
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(each[1] == "->" and each[5] == str(pid) for each in locks)
