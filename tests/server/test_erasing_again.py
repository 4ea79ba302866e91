"""Erasures that fail on the way: tried again by the server, finished by the next start, never forgotten."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kg.erasure import erase_user, user_key
from kg.store import Graph
from kgrank.client import event
from kgrank.errors import ServerUnavailableError
from kgrank.v1 import common_pb2
from server.errors import JournalFullError
from server.journal import Journal
from server.journal_file import JournalFile, not_written
from server.redacting import Redacting
from tests.server.erasure import files_with, lines_of, properties, publish_for, refused_while_set, shop_server
from tests.server.shop import tables
from tests.waiting import until

pytestmark = pytest.mark.neo4j


def test_an_erasure_that_the_graph_refused_is_tried_again_until_it_takes_it(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    busy = refused_while_set(monkeypatch)
    with shop_server(home, graph) as (server, client):
        with pytest.raises(ServerUnavailableError):
            client.erase_user("user-04")
        busy.clear()
        until(lambda: graph.read("MATCH (u:User {id: 'user-04'}) RETURN count(u)") == [[0]])
        until(lambda: server.server._journal.pending_erasures() == [])
    assert files_with(home, "user-04") == []


def test_who_comes_back_while_an_erasure_waits_keeps_what_was_acknowledged_since(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    busy = refused_while_set(monkeypatch)
    with shop_server(home, graph) as (server, client):
        client.write_event(event("user-04", "product-05", "view", event_id="before"))
        with pytest.raises(ServerUnavailableError):
            client.erase_user("user-04")
        intended_ms = server.server._journal.intended_ms("user-04") or 0
        until(lambda: time.time_ns() // 1_000_000 > intended_ms)
        assert client.write_event(event("user-04", "product-07", "view", event_id="since")).status
        asked = "MATCH (:User {id: 'user-04'})-[r]->() WHERE r.event_id IN ['before', 'since'] RETURN r.event_id"
        until(lambda: len(graph.read(asked)) == 2)
        busy.clear()
        until(lambda: server.server._journal.pending_erasures() == [])
        assert client.user_profile("user-04").interaction_count == 1
        known = {(line["source"], line.get("event_id")) for line in lines_of(client, "user-04")}
        assert known == {("graph", None), ("graph", "since"), ("journal", "since"), ("memory", None)}


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (JournalFullError("the disk is full", "Free space."), "journal did not take"),
        (sqlite3.OperationalError("disk I/O error"), "journal did not take"),
        (RuntimeError("a defect"), "failed on the way"),
    ],
)
def test_an_erasure_that_fails_half_way_is_finished_without_a_restart(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str
) -> None:
    graph.load(tables())
    monkeypatch.setattr("server.erasing._FIRST_RETRY_S", 0.2)
    erase, failing = Journal.erase, threading.Event()
    failing.set()

    def failing_half_way(journal: Journal, *about: Any) -> Any:
        if failing.is_set() and len(about) == 2:  # what came meanwhile
            raise failure
        return erase(journal, *about)

    monkeypatch.setattr(Journal, "erase", failing_half_way)
    with shop_server(home, graph) as (server, client):
        with pytest.raises(ServerUnavailableError, match=f"{told}.*tried again until it is done") as waits:
            client.erase_user("user-04")
        assert waits.value.reason == "ERASURE_WAITS"
        assert server.server._journal.pending_erasures() == ["user-04"]
        failing.clear()
        until(lambda: server.server._journal.pending_erasures() == [])
        assert client.recommend("user-04", k=1).user_state == common_pb2.USER_STATE_COLD
    assert files_with(home, "user-04") == []


def test_an_erasure_that_the_journal_refuses_at_the_start_keeps_nobody_from_the_graph(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    monkeypatch.setattr("server.erasing._FIRST_RETRY_S", 0.2)
    journal = Journal(home / "journal.db")
    journal.intend_erasure("user-05")
    journal.close()
    erase, full = Journal.erase, threading.Event()
    full.set()

    def refusing(journal: Journal, *about: Any) -> Any:
        if full.is_set():
            raise not_written()
        return erase(journal, *about)

    monkeypatch.setattr(Journal, "erase", refusing)
    with shop_server(home, graph) as (server, client):
        assert server.server._journal.pending_erasures() == ["user-05"]
        full.clear()
        until(lambda: server.server._journal.pending_erasures() == [])
        until(lambda: client.recommend("user-05", k=1).user_state == common_pb2.USER_STATE_COLD)
    assert files_with(home, "user-05") == []


@pytest.mark.parametrize(
    "step", ["the first of the journal", "the graph", "the second of the journal", "the snapshots", "the crossing out"]
)
def test_an_erasure_that_failed_before_any_step_is_finished_by_the_next_start(
    home: Path, graph: Graph, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    publish_for(graph, "user-10")
    erase, erased = Journal.erase, 0

    def killed(*_: object) -> Any:
        raise RuntimeError(f"killed before {step}")

    def killed_the_second_time(journal: Journal, *about: Any) -> Any:
        nonlocal erased
        erased += 1
        return erase(journal, *about) if erased == 1 else killed()

    with monkeypatch.context() as patched, shop_server(home, graph) as (_, client):
        client.write_event(event("user-10", "product-05", event_id="half-way"))
        match step:
            case "the first of the journal":
                patched.setattr(Journal, "erase", killed)
            case "the graph":
                patched.setattr("server.erasing.erase_user", killed)
            case "the second of the journal":
                patched.setattr(Journal, "erase", killed_the_second_time)
            case "the snapshots":
                patched.setattr(Redacting, "_redact", killed)
            case "the crossing out":
                patched.setattr(Journal, "finish_erasure", killed)
        with pytest.raises(ServerUnavailableError, match="tried again until it is done"):
            client.erase_user("user-10")
    assert files_with(home, "user-10") != []  # at least that it is to be done
    with shop_server(home, graph) as (_, client):
        until(lambda: client.recommend("user-10", k=1).user_state == common_pb2.USER_STATE_COLD)
        assert lines_of(client, "user-10") == []
        assert client.recommend("user-11", k=1).user_state == common_pb2.USER_STATE_WARM
    assert files_with(home, "user-10") == []
    stored = properties(graph)
    assert "user-10" not in stored
    assert "half-way" not in stored
    assert user_key("user-10") in stored


def test_an_erasure_that_a_kill_stopped_is_finished_by_the_next_start(home: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = Journal(home / "journal.db")
    # What a kill right after the first step leaves.
    journal.intend_erasure("user-05")
    journal.close()
    with shop_server(home, graph) as (_, client):
        until(lambda: graph.read("MATCH (u:User {id: 'user-05'}) RETURN count(u)") == [[0]])
        until(lambda: client.recommend("user-05", k=1).user_state == common_pb2.USER_STATE_COLD)
        assert client.recommend("user-06", k=1).user_state == common_pb2.USER_STATE_WARM
    assert files_with(home, "user-05") == []
    assert graph.read("MATCH (e:Erasure) RETURN e.user") == [[user_key("user-05")]]


def test_an_erasure_of_another_server_that_the_journal_could_not_follow_is_followed_later(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    failures = [sqlite3.OperationalError("unable to open database file")]
    users = JournalFile.users

    def failing(journal: JournalFile) -> list[str]:
        if failures:
            raise failures.pop()
        return users(journal)

    with shop_server(home, graph) as (server, client):
        client.write_event(event("user-04", "product-02"))
        monkeypatch.setattr(JournalFile, "users", failing)
        erase_user(graph, "user-04")  # as another server does
        until(lambda: [each.user_key for each in server.server._journal.erasures()] == [user_key("user-04")])
        assert not failures
        assert "user-04" not in server.server._journal.users()
