"""Kills at random moments under write load: what was acknowledged is there, once. Long forms run in `make chaos`."""

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from kg.config import GraphSettings
from kg.embedded_files import OWNER_LOCK, read_endpoint
from kg.erasure import user_key
from kg.store import Graph
from kgrank.client import Client, event, product
from kgrank.errors import CallError, OverloadedError
from server.journal_file import JournalFile
from tests.server.shop import tables
from tests.small_disk import fill, small_disk
from tests.waiting import until

ROOT = Path(__file__).parents[2]
AWAY_S = 150
WRITERS = 4
USERS = 5


class Servers:
    """One server after the other on one home and one port."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "server.main", "serve", "--port", str(self.port), "--json", *arguments]
        self._environment = os.environ | {
            "KGRANK_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "KGRANK_SERVE__SEARCH": "false",
        }
        self._process: subprocess.Popen[str] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start one, and wait until it serves."""
        with (self.home / "serve.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.home, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.home / "serve.log").read_text()[-4000:]

    def stop(self, how: signal.Signals) -> int:
        """End it with a signal, and wait until it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(how)
        status = self._process.wait(90)
        self._process.stdout.close()
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)


class Load:
    """Callers that write one event after the other, and remember which were acknowledged."""

    def __init__(self, target: str, pause_s: float = 0) -> None:
        self.acknowledged: set[str] = set()
        self._target = target
        self._pause_s = pause_s
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def _write(self, number: int) -> None:
        count = 0
        with Client(self._target, timeout_s=60) as client:
            while not self._leaving.is_set():
                count += 1
                ids = [f"w{number}-{count}-{each}" for each in range(1 if count % 3 else 7)]
                events = [event(f"writer-{number % USERS}", f"product-{count % 90:02}", event_id=each) for each in ids]
                # An unanswered call is written again under the same ids, as a caller should.
                while not self._leaving.is_set():
                    try:
                        client.write_events(events)
                    except CallError:
                        time.sleep(0.05)
                    else:
                        with self._lock:
                            self.acknowledged.update(ids)
                        break
                self._leaving.wait(self._pause_s)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def servers(home: Path, *arguments: str) -> Iterator[Servers]:
    made = Servers(home, *arguments)
    try:
        yield made
    finally:
        made.close()


def kill_under_load(home: Path, kills: int, *arguments: str) -> set[str]:
    """Kill servers at random moments while events are written, and end the last in order; return what was acked."""
    moments = random.Random(7)
    with servers(home, *arguments) as each:
        each.start()
        with Load(each.target) as load:
            for _ in range(kills):
                seen = len(load.acknowledged)
                until(lambda seen=seen: len(load.acknowledged) > seen, timeout_s=90)
                time.sleep(moments.uniform(0, 0.5))  # the random moment itself, not a wait for something
                each.stop(signal.SIGKILL)
                each.start()  # recovers by itself
        assert each.stop(signal.SIGTERM) == 0
        return load.acknowledged


def assert_stored_once(home: Path, acknowledged: set[str]) -> None:
    stored = [each.event.event_id for each in JournalFile(home / "journal.db").all()]
    assert len(stored) == len(set(stored)), "twice"
    assert acknowledged <= set(stored), "lost"


def assert_in_graph_in_order(graph: Graph, acknowledged: set[str]) -> None:
    rows = graph.read("MATCH (u:User)-[r]->() WHERE u.id STARTS WITH 'writer-' RETURN r.event_id, r.commit, r.position")
    assert len(rows) == len({row[0] for row in rows}), "twice in the graph"
    assert acknowledged <= {row[0] for row in rows}, "lost on the way to the graph"
    by_position = sorted(rows, key=lambda row: row[2])
    assert [row[1] for row in by_position] == sorted(row[1] for row in rows), "out of order"


@contextmanager
def hung(folder: Path) -> Iterator[None]:
    """Let the graph's process stand still: it takes connections and says nothing."""
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    os.kill(endpoint.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(endpoint.pid, signal.SIGCONT)


@contextmanager
def gone(folder: Path) -> Iterator[None]:
    """Kill the graph's process, and let nobody start another."""
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    with (folder / OWNER_LOCK).open("a") as held:
        os.kill(endpoint.pid, signal.SIGKILL)
        fcntl.flock(held, fcntl.LOCK_EX)  # once the process has let go
        yield


def kill_writer(path: Path, run: int, moments: random.Random) -> set[str]:
    """Kill a process that writes a journal at a random moment; return what it has acknowledged."""
    command = [sys.executable, "-m", "tests.server.journal_writer", str(path), str(run)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it writes now
        assert lines[0], "the writer does not start on what the kill before has left"
        killer = threading.Timer(moments.uniform(0, 0.15), process.kill)  # the random moment itself
        killer.start()
        lines += process.stdout.readlines()
        killer.join()
    return {event_id for line in lines if line.endswith("\n") for event_id in line.split()}


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])])
def test_kills_of_the_writing_process_lose_nothing_and_store_nothing_twice(tmp_path: Path, kills: int) -> None:
    moments = random.Random(3)
    acknowledged: set[str] = set()
    for run in range(kills):
        acknowledged |= kill_writer(tmp_path / "journal.db", run, moments)
    assert len({event_id.partition("-")[0] for event_id in acknowledged}) == kills
    assert_stored_once(tmp_path, acknowledged)


@pytest.mark.slow
def test_two_kills_under_write_load_lose_no_acknowledged_event(home: Path) -> None:
    acknowledged = kill_under_load(home, 2, "--no-graph")
    assert_stored_once(home, acknowledged)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.neo4j
def test_fifty_kills_under_write_load_lose_no_acknowledged_event(home: Path, graph: Graph, graph_folder: Path) -> None:
    graph.load(tables())
    (home / "graph").symlink_to(graph_folder)
    acknowledged = kill_under_load(home, 50)
    assert_stored_once(home, acknowledged)
    found = graph.read("MATCH (u:User)-[r]->() WHERE u.id STARTS WITH 'writer-' RETURN r.event_id")
    there = [row[0] for row in found]
    assert len(there) == len(set(there)), "twice in the graph"
    assert acknowledged <= set(there), "lost on the way to the graph"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.neo4j
def test_kills_in_the_middle_of_erasures_leave_nobody_half_erased(home: Path, graph: Graph, graph_folder: Path) -> None:
    graph.load(tables())
    (home / "graph").symlink_to(graph_folder)
    moments = random.Random(11)
    users = [f"user-{number:02}" for number in range(10)]
    finished = 0
    with servers(home) as each:
        each.start()
        for user_id in users:
            with Client(each.target, timeout_s=60) as client:
                client.write_event(event(user_id, "product-01", event_id=f"last of {user_id}"))
                erasing = threading.Thread(target=_erase_or_fail, args=(each.target, user_id))
                erasing.start()
                time.sleep(moments.uniform(0, 0.3))  # the random moment itself
                each.stop(signal.SIGKILL)
                erasing.join()
            journal = JournalFile(home / "journal.db")
            begun = {user_key(each) for each in journal.pending_erasures()} | {
                each.user_key for each in journal.erasures()
            }
            each.start()
            if user_key(user_id) in begun:  # what is written down is finished without being asked for again
                until(lambda user_id=user_id: not _stored(graph, user_id), timeout_s=60)
                finished += 1
            else:
                assert _stored(graph, user_id), "half erased"
                with Client(each.target, timeout_s=60) as client:
                    client.erase_user(user_id)  # as a caller who did not hear from the first would
        until(lambda: not JournalFile(home / "journal.db").pending_erasures(), timeout_s=60)
        assert finished
        assert each.stop(signal.SIGTERM) == 0
    for user_id in users:
        assert not _stored(graph, user_id)
        held = [path for path in home.rglob("*") if path.is_file() and user_id.encode() in path.read_bytes()]
        assert [path for path in held if graph_folder.resolve() not in path.resolve().parents] == []


def _stored(graph: Graph, user_id: str) -> bool:
    return bool(graph.read("MATCH (u:User {id: $id}) RETURN 1", id=user_id))


def _erase_or_fail(target: str, user_id: str) -> None:
    with Client(target, timeout_s=2) as client:
        try:
            client.erase_user(user_id, timeout_s=2)
        except CallError:
            return


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.neo4j
def test_kills_of_the_graph_hold_up_no_ranking_and_lose_no_event(home: Path) -> None:
    settings = GraphSettings(heap_mib=512, page_cache_mib=64)
    folder = home / "graph"
    with Graph.connect(settings, folder) as graph:
        graph.ensure_schema()
        graph.load(tables())
    with servers(home) as each:
        each.start()
        with Load(each.target) as load, Client(each.target, timeout_s=60) as client:
            for _ in range(3):
                until(lambda: read_endpoint(folder) is not None, timeout_s=120)
                seen = len(load.acknowledged)
                until(lambda seen=seen: len(load.acknowledged) > seen + 20, timeout_s=90)
                endpoint = read_endpoint(folder)
                assert endpoint is not None
                os.kill(endpoint.pid, signal.SIGKILL)
                seen = len(load.acknowledged)
                until(lambda seen=seen: len(load.acknowledged) > seen + 20, timeout_s=90)
                assert client.recommend("user-01", k=3).results
                until(lambda gone=endpoint.pid: _another(folder, gone), timeout_s=120)
        until(lambda: JournalFile(home / "journal.db").undrained() == 0, timeout_s=120)
        assert each.stop(signal.SIGTERM) == 0
    assert_stored_once(home, load.acknowledged)
    with Graph.connect(settings, folder) as graph:
        assert_in_graph_in_order(graph, load.acknowledged)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.neo4j
@pytest.mark.parametrize("away", [hung, gone])
def test_a_graph_that_is_away_for_minutes_holds_up_no_ranking_and_loses_no_event(
    home: Path, away: Callable[[Path], AbstractContextManager[None]]
) -> None:
    settings = GraphSettings(heap_mib=512, page_cache_mib=64)
    folder = home / "graph"
    with Graph.connect(settings, folder) as graph:
        graph.ensure_schema()
        graph.load(tables())
    journal = JournalFile(home / "journal.db")
    with servers(home) as each:
        each.start()
        with Load(each.target, pause_s=0.05) as load, Client(each.target, timeout_s=5) as client:
            until(lambda: len(load.acknowledged) > 20, timeout_s=90)
            until(lambda: read_endpoint(folder) is not None, timeout_s=120)
            with away(folder):
                back = time.monotonic() + AWAY_S
                while time.monotonic() < back:
                    assert client.recommend("user-01", k=3).results
                    seen = len(load.acknowledged)
                    until(lambda seen=seen: len(load.acknowledged) > seen, timeout_s=10)
                    time.sleep(0.5)  # it is the time away that is tested
                assert journal.undrained() > AWAY_S
            assert client.recommend("user-01", k=3).results
        until(lambda: journal.undrained() == 0, timeout_s=240)
        assert each.stop(signal.SIGTERM) == 0
    assert_stored_once(home, load.acknowledged)
    with Graph.connect(settings, folder) as graph:
        assert_in_graph_in_order(graph, load.acknowledged)


def _another(folder: Path, gone: int) -> bool:
    endpoint = read_endpoint(folder)
    return endpoint is not None and endpoint.pid != gone


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.neo4j
def test_a_graph_whose_disk_is_full_holds_up_no_ranking_and_loses_no_event(home: Path, tmp_path: Path) -> None:
    settings = GraphSettings(heap_mib=512, page_cache_mib=64)
    folder = home / "graph"
    journal = JournalFile(home / "journal.db")
    with small_disk(tmp_path / "disk", "600m") as disk:
        folder.symlink_to(disk)
        with Graph.connect(settings, folder) as graph:
            graph.ensure_schema()
            graph.load(tables())
        with servers(home) as each:
            each.start()
            with Load(each.target, pause_s=0.05) as load, Client(each.target, timeout_s=30) as client:
                until(lambda: len(load.acknowledged) > 20, timeout_s=90)
                until(lambda: read_endpoint(folder) is not None, timeout_s=120)
                in_the_way = fill(disk)
                until(lambda: journal.undrained() > 100, timeout_s=120)
                with pytest.raises(OverloadedError) as refused:
                    client.upsert_products([product("lamp-1")])
                assert refused.value.reason == "GRAPH_FULL"
                assert len(client.list_products(page_size=2).products) == 2  # the graph answers what reads
                assert client.recommend("user-01", k=3).results
                in_the_way.unlink()
                client.upsert_products([product("lamp-1")])
            until(lambda: journal.undrained() == 0, timeout_s=120)
            assert each.stop(signal.SIGTERM) == 0
        assert_stored_once(home, load.acknowledged)
        with Graph.connect(settings, folder) as graph:
            assert_in_graph_in_order(graph, load.acknowledged)
