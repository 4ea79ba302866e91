"""A server that was never told the shop's rules: it waits for them, so far, and says so when it goes on without."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import grpc
import pytest
import structlog

from kg.errors import GraphError, GraphUnavailableError
from kg.rules import Action, Rule, Target, upsert_rule
from kg.store import Graph
from kgrank.client import Client
from kgrank.errors import ServerUnavailableError
from tests.server.command import CommandLine
from tests.server.running import Connect, running
from tests.server.shop import tables
from tests.server.test_health import NOT_SERVING, SERVING, health
from tests.server.test_watch import fetch, values
from tests.waiting import until

NO_BOLT = Rule("no-bolt", Action.BLOCK, Target.BRAND, "Bolt")


def shown_brands(client: Client) -> set[str]:
    return {each.brand for each in client.recommend("user-01", k=20, details=True).results}


class Door:
    """A graph that is away until the door is opened."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._open = threading.Event()

    def open(self) -> None:
        """Let it be there from now on."""
        self._open.set()

    @property
    def connect(self) -> Connect:
        """What a server opens the graph with."""

        @contextmanager
        def connected() -> Iterator[Graph]:
            if not self._open.is_set():
                raise GraphUnavailableError("the graph does not answer", "Wait.")
            yield self._graph

        return connected


@pytest.fixture
def door(graph: Graph) -> Door:
    graph.load(tables())
    upsert_rule(graph, NO_BOLT)
    return Door(graph)


@pytest.mark.neo4j
def test_a_new_replica_shows_nothing_before_it_has_read_the_rules(home: Path, door: Door) -> None:
    with (
        running(home, door.connect, ready=False, rules_wait_s=300, watch={"metrics_port": 0}) as server,
        grpc.insecure_channel(server.target) as channel,
        Client(server.target, timeout_s=60) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        until(lambda: server.server.active is not None, 60)
        assert health(channel) == NOT_SERVING
        assert fetch(port, "/readyz")[0] == 503
        with pytest.raises(ServerUnavailableError) as refused:
            client.recommend("user-01")
        assert refused.value.reason == "NOT_SERVING"
        assert (values(port)["kgrank_ready",], values(port)["kgrank_rules_known",]) == (0, 0)
        door.open()
        until(lambda: health(channel) == SERVING, 30)
        assert "Bolt" not in shown_brands(client)
        assert (values(port)["kgrank_ready",], values(port)["kgrank_rules_known",]) == (1, 1)
    # It has a copy now: the next start waits for nothing.
    with running(home, Door(None).connect, rules_wait_s=300) as server, Client(server.target) as client:  # type: ignore[arg-type]  # never opened
        assert "Bolt" not in shown_brands(client)


@pytest.mark.neo4j
def test_a_replica_that_waited_long_enough_goes_on_and_says_so(home: Path, door: Door) -> None:
    with (
        structlog.testing.capture_logs() as lines,
        running(home, door.connect, rules_wait_s=0.05, watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        assert "Bolt" in shown_brands(client)
        assert [each["log_level"] for each in lines if each["event"] == "serving_without_rules"] == ["error"]
        assert values(port)["kgrank_rules_known",] == 0
        door.open()
        until(lambda: "Bolt" not in shown_brands(client), 30)
        assert values(port)["kgrank_rules_known",] == 1


@pytest.mark.neo4j
def test_rules_that_can_not_be_read_at_once_are_asked_for_again(
    home: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = Graph.read, iter([GraphError("the graph failed"), GraphError("the graph failed")])

    def failing(graph: Graph, cypher: str, **parameters: object) -> list[list[object]]:
        if "(r:Rule)" in cypher and (failure := next(failures, None)) is not None:
            raise failure
        return read(graph, cypher, **parameters)

    monkeypatch.setattr(Graph, "read", failing)
    door.open()
    with running(home, door.connect, rules_wait_s=300) as server, Client(server.target) as client:
        assert "Bolt" not in shown_brands(client)


def test_a_damaged_copy_counts_as_none(home: Path) -> None:
    (home / "rules.json").write_text('[{"rule_id": "no-bolt"')
    away = Door(None).connect  # type: ignore[arg-type]  # never opened
    with structlog.testing.capture_logs() as lines, running(home, away, rules_wait_s=0.05):
        pass
    assert {"rules_not_recalled", "serving_without_rules"} <= {each["event"] for each in lines}


def test_a_server_without_a_graph_goes_by_the_copy(home: Path) -> None:
    (home / "rules.json").write_text(json.dumps([asdict(NO_BOLT)]))
    with running(home, None) as server, Client(server.target) as client:
        assert shown_brands(client) == {"Acme", "Cora"}


def test_a_server_without_a_graph_says_that_its_copy_is_damaged_and_waits_for_nothing(home: Path) -> None:
    (home / "rules.json").write_text('[{"rule_id": "no-bolt"')
    with (
        structlog.testing.capture_logs() as lines,
        running(home, None, rules_wait_s=300, watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        assert "Bolt" in shown_brands(client)
        assert (values(port)["kgrank_ready",], values(port)["kgrank_rules_known",]) == (1, 0)
    assert [each["log_level"] for each in lines if each["event"] == "serving_without_rules"] == ["error"]


def test_without_a_graph_there_are_no_rules_to_wait_for(home: Path) -> None:
    with (
        running(home, None, rules_wait_s=300, watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        assert "Bolt" in shown_brands(client)
        assert values(port)["kgrank_rules_known",] == 1


@pytest.mark.parametrize(
    ("copy", "level", "said"),
    [
        (None, "warning", "there is no copy of the shop's rules"),
        ("[]", "ok", "a copy of 0 rules"),
        ("[", "problem", "is damaged"),
    ],
)
def test_the_doctor_looks_at_the_copy(
    kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, copy: str | None, level: str, said: str
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "0")
    if copy is not None:
        (home / "rules.json").write_text(copy)
    findings = json.loads(kgrank(home, "doctor", "--json").out)["findings"]
    assert [said in each["found"] for each in findings if (each["check"], each["level"]) == ("rules", level)] == [True]
