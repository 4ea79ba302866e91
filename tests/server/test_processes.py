"""More than one server: what one is told, the others know; each may be killed and replaced."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from kg.erasure import erase_user
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.v1 import common_pb2
from server.follow import Follower
from server.journal import Journal
from server.journal_file import COMMIT
from tests.server.command import CommandLine
from tests.server.running import running
from tests.server.shop import Shop, tables
from tests.server.test_watch import values
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@contextmanager
def two_servers(shop: Shop, folder: Path, graph: Graph) -> Iterator[tuple[Client, Client]]:
    homes = [Path(shutil.copytree(shop.home, folder / name)) for name in ("one", "two")]
    with (
        running(homes[0], lambda: nullcontext(graph), drain_s=60) as one,
        running(homes[1], lambda: nullcontext(graph), drain_s=60) as two,
        Client(one.target) as first,
        Client(two.target) as second,
    ):
        until(lambda: one.server.graph_open and two.server.graph_open)
        yield first, second


@pytest.mark.neo4j
def test_what_one_server_is_told_changes_the_answers_of_another(shop: Shop, tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    with two_servers(shop, tmp_path, graph) as (one, two):
        assert two.recommend("wanderer", k=3).user_state == common_pb2.USER_STATE_COLD
        one.write_event(event("wanderer", "product-02", "purchase", event_id="told-one"))
        until(lambda: two.recommend("wanderer", k=3).user_state == common_pb2.USER_STATE_FEW_EVENTS)
        answers = [
            [each.product_id for each in client.recommend("wanderer", k=90, exclude_seen=True).results]
            for client in (one, two)
        ]
        assert answers[0] == answers[1]
        assert "product-02" not in answers[0]
        # A caller that did not hear from the first writes it to the second; it counts once.
        two.write_event(event("wanderer", "product-02", "purchase", event_id="told-one"))
        two.write_event(event("wanderer", "product-05", "purchase", event_id="told-two"))
        until(lambda: one.user_profile("wanderer").interaction_count == 2)
        assert two.user_profile("wanderer").interaction_count == 2
        one.erase_user("wanderer")
        until(lambda: two.recommend("wanderer", k=3).user_state == common_pb2.USER_STATE_COLD)
        until(lambda: list(two.export_user("wanderer")) == [])
        two.write_event(event("wanderer", "product-08", "view", event_id="after"))
        until(lambda: graph.read("MATCH (:User {id: 'wanderer'})-[r]->() RETURN r.event_id") == [["after"]])
        until(lambda: one.recommend("wanderer", k=3).user_state == common_pb2.USER_STATE_FEW_EVENTS)


def test_a_client_spreads_its_calls_over_the_servers_of_a_name(shop: Shop, tmp_path: Path) -> None:
    homes = [Path(shutil.copytree(shop.home, tmp_path / name)) for name in ("one", "two")]
    with running(homes[0]) as one, running(homes[1]) as two:
        for server, version in zip((one, two), shop.versions, strict=True):
            with Client(server.target) as client:
                client.activate_model(f"models/{version}")
        with Client(f"ipv4:{one.target},{two.target}") as client:
            until(lambda: {client.recommend("user-01", k=1).model_version for _ in range(10)} == set(shop.versions))


@pytest.mark.neo4j
def test_events_that_only_the_graph_has_are_there_after_a_start(shop: Shop, tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    with two_servers(shop, tmp_path / "before", graph) as (one, two):
        one.write_event(event("settler", "product-02", "purchase"))
        two.write_event(event("settler", "product-05", "view"))
        until(lambda: two.user_profile("settler").interaction_count == 2)
    new_host = Path(shutil.copytree(shop.home, tmp_path / "new"))
    with running(new_host, lambda: nullcontext(graph)) as server, Client(server.target) as client:
        until(lambda: client.recommend("settler", k=3).user_state == common_pb2.USER_STATE_FEW_EVENTS)
        assert client.user_profile("settler").interaction_count == 2


@pytest.mark.neo4j
def test_a_server_serves_once_it_has_followed_what_others_did_before_its_start(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    erase_user(graph, "user-03")  # as another server did
    read = Follower._read

    def slowly(self: Follower, *asked: Any) -> Any:
        time.sleep(1)
        return read(self, *asked)

    monkeypatch.setattr(Follower, "_read", slowly)
    monkeypatch.setattr("server.readiness._FOLLOWS_WITHIN_S", 120.0)
    with (
        running(home, lambda: nullcontext(graph), watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        assert client.recommend("user-03", k=3).user_state == common_pb2.USER_STATE_COLD
        assert client.recommend("user-05", k=3).user_state == common_pb2.USER_STATE_WARM
        assert server.server.metrics_port is not None
        told = values(server.server.metrics_port)
        assert told["kgrank_graph_up",] == 1
        assert 0 <= told["kgrank_follow_lag_seconds",] < 60


@pytest.mark.neo4j
def test_a_graph_that_was_put_back_while_no_server_ran_gives_no_number_twice(home: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = Journal(home / "journal.db")
    journal.note(COMMIT, 70)
    journal.close()
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target) as client:
        client.write_event(event("settler", "product-02", "purchase"))
        until(lambda: graph.read("MATCH (:User {id: 'settler'})-[r]->() RETURN r.commit > 70") == [[True]])


@pytest.mark.neo4j
def test_a_server_without_a_model_is_not_late(tmp_path: Path, graph: Graph) -> None:
    with running(tmp_path, lambda: nullcontext(graph), ready=False, watch={"metrics_port": 0}) as server:
        port = server.server.metrics_port
        assert port is not None
        until(lambda: values(port)["kgrank_graph_up",] == 1)
        assert ("kgrank_follow_lag_seconds",) not in values(port)


def test_processes_that_would_have_no_port_of_metrics_are_not_started(
    kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__WATCH__METRICS_PORT", "65534")
    done = kgrank(tmp_path, "serve", "--port", "0", "--processes", "3")
    assert done.code == 1
    assert "serve.watch.metrics_port is 65534" in done.err
    assert "Set it to 65533 or less." in done.err


def test_a_journal_belongs_to_one_server(tmp_path: Path) -> None:
    from server.errors import JournalError

    journal = Journal(tmp_path / "journal.db")
    with pytest.raises(JournalError, match="belongs to another server"):
        Journal(tmp_path / "journal.db")
    journal.close()
    Journal(tmp_path / "journal.db").close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGKILL], id="one"),
        pytest.param(
            [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], marks=pytest.mark.chaos, id="all"
        ),
    ],
)
def test_processes_are_killed_and_replaced_without_a_failed_call(home: Path, signals: list[signal.Signals]) -> None:
    (home / "kgrank.toml").write_text("serve.processes = 2")
    command = [sys.executable, "-m", "server.main", "serve", "--port", "0", "--no-graph", "--json"]
    environment = os.environ | {"KGRANK_HOME": str(home), "PYTHONPATH": str(ROOT), "KGRANK_SERVE__SEARCH": "false"}
    with (
        (home / "serve.log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True) as parent,
    ):
        try:
            assert parent.stdout is not None
            line = parent.stdout.readline()
            assert line, (home / "serve.log").read_text()
            (home / "kgrank.toml").write_text("serve.processes = 1")  # for the next start: replacements are of two
            calls_go_on(parent, json.loads(line)["target"], signals)
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(60) == 0
        finally:
            for each in [*psutil.Process(parent.pid).children(recursive=True)] if parent.poll() is None else []:
                each.kill()
            parent.kill()


def calls_go_on(parent: "subprocess.Popen[str]", target: str, signals: list[signal.Signals]) -> None:
    """End one process after the other, the oldest first; every call must be answered."""
    assert serving_workers(parent) == 2
    done, failures, answered = threading.Event(), [], 0

    def call_on() -> None:
        nonlocal answered
        number = 0
        while not done.is_set():
            number += 1
            try:
                with Client(target, timeout_s=30) as client:  # a new connection, to either process
                    client.recommend("user-01", k=3)
                    client.write_event(event("caller", "product-02", event_id=f"{threading.get_ident()}-{number}"))
                answered += 1
            except Exception as error:  # whatever it is, the call has failed
                failures.append(error)

    callers = [threading.Thread(target=call_on) for _ in range(2)]
    for caller in callers:
        caller.start()
    for how in signals:
        before = answered
        worker = min(psutil.Process(parent.pid).children(), key=lambda each: each.create_time())
        worker.send_signal(how)
        until(lambda worker=worker: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
        until(lambda before=before: answered > before + 5)
        until(lambda: serving_workers(parent) == 2, timeout_s=120)
    done.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert answered > 0


def serving_workers(parent: "subprocess.Popen[str]") -> int:
    """Return how many processes listen: a replacement does once it is there."""
    workers = psutil.Process(parent.pid).children()
    return sum(
        any(each.status == psutil.CONN_LISTEN for each in worker.net_connections())
        for worker in workers
        if worker.status() != psutil.STATUS_ZOMBIE
    )
