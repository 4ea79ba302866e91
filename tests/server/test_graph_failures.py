"""What a caller is told when the graph is there and fails: the truth, and nothing of what the database said."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import grpc
import neo4j.exceptions
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # generated, ships no marker

from kg.errors import GraphError, GraphMemoryError
from kg.store import Graph
from kg.store_errors import our_errors
from kgrank.client import Client, product
from kgrank.errors import CallError, OverloadedError, ServerUnavailableError
from server.errors import Failure, failure
from tests.conftest import GRAPH_SETTINGS
from tests.server.running import running
from tests.server.shop import tables
from tests.small_disk import fill, small_disk
from tests.waiting import until

PLACE = "bolt://graph.example:7687"
SAID = "Node(17) with key 'ann-1337' in /var/lib/graph"
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
SETUP, INTERNAL = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL


def told_of(error: Exception) -> Failure:
    with pytest.raises(GraphError) as ours, our_errors(PLACE):
        raise error
    return failure(ours.value, method="m", request_id="")


def answered(code: str, message: str = SAID) -> Exception:
    """Return what the driver raises for an answer of the database."""
    return neo4j.exceptions.Neo4jError._hydrate_neo4j(code=code, message=message)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (answered("Neo.TransientError.Transaction.DeadlockDetected"), UNAVAILABLE, "GRAPH_BUSY"),
        (answered("Neo.TransientError.General.MemoryPoolOutOfMemoryError"), UNAVAILABLE, "GRAPH_BUSY"),
        (answered("Neo.ClientError.Transaction.TransactionTimedOut"), UNAVAILABLE, "GRAPH_BUSY"),
        (answered("Neo.TransientError.Transaction.Terminated"), UNAVAILABLE, "GRAPH_BUSY"),
        (answered("Neo.ClientError.Statement.EntityNotFound"), UNAVAILABLE, "GRAPH_BUSY"),
        (answered("Neo.DatabaseError.General.UnknownError", f"No space left: {SAID}"), EXHAUSTED, "GRAPH_FULL"),
        (answered("Neo.DatabaseError.Transaction.TransactionLogError"), UNAVAILABLE, "GRAPH_DISK"),
        (
            answered(
                "Neo.DatabaseError.Transaction.TransactionStartFailed", "The database has encountered a critical error"
            ),
            UNAVAILABLE,
            "GRAPH_DISK",
        ),
        (answered("Neo.ClientError.Schema.ConstraintValidationFailed"), UNAVAILABLE, "GRAPH_FAILED"),
        (answered("Neo.DatabaseError.General.UnknownError"), UNAVAILABLE, "GRAPH_FAILED"),
        (answered("Neo.ClientError.Procedure.ProcedureNotFound"), UNAVAILABLE, "GRAPH_FAILED"),
        (answered("Neo.TransientError.Database.DatabaseUnavailable"), UNAVAILABLE, "GRAPH_UNAVAILABLE"),
        (answered("Neo.ClientError.General.ForbiddenOnReadOnlyDatabase"), SETUP, "GRAPH_SETUP"),
        (answered("Neo.ClientError.Security.Forbidden"), SETUP, "GRAPH_SETUP"),
        (answered("Neo.ClientError.Security.CredentialsExpired"), SETUP, "GRAPH_SETUP"),
        (answered("Neo.ClientError.Security.Unauthorized"), SETUP, "GRAPH_SETUP"),
        (answered("Neo.ClientError.Database.DatabaseNotFound"), SETUP, "GRAPH_SETUP"),
        (answered("Neo.ClientError.Statement.SyntaxError"), INTERNAL, "DEFECT"),
        (neo4j.exceptions.ServiceUnavailable(SAID), UNAVAILABLE, "GRAPH_UNAVAILABLE"),
        (OSError(SAID), UNAVAILABLE, "GRAPH_UNAVAILABLE"),
        (ValueError(SAID), UNAVAILABLE, "GRAPH_FAILED"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, SAID), INTERNAL, "DEFECT"),
    ],
)
def test_each_failure_of_the_graph_has_a_status_and_tells_nothing_of_it(
    error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    told = told_of(error)
    assert (told.code, told.reason) == (code, reason)
    everything = told.message + told.details.decode(errors="replace")
    assert not any(each in everything for each in ("ann-1337", "graph.example", "/var/lib", "Node(17)", "Neo."))


def test_a_query_that_does_not_fit_in_the_graph_s_memory_names_the_setting() -> None:
    for code in ("MemoryPoolOutOfMemoryError", "TransactionOutOfMemoryError", "OutOfMemoryError"):
        with pytest.raises(GraphMemoryError, match="too little memory") as ours, our_errors(PLACE):
            raise answered(f"Neo.TransientError.General.{code}")
        assert "graph.heap_mib" in ours.value.remedy


def test_a_failure_that_only_the_log_explains_can_be_found_there() -> None:
    told = told_of(answered("Neo.DatabaseError.General.UnknownError"))
    status = status_pb2.Status.FromString(told.details)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert re.fullmatch("[0-9a-f]{16}", info.metadata["error_id"])
    assert info.metadata["error_id"] in told.message


@pytest.mark.slow
@pytest.mark.neo4j
@pytest.mark.usefixtures("neo4j_jars")
def test_with_a_full_graph_writes_are_refused_and_reads_and_rankings_go_on(home: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200m") as disk, Graph.connect(GRAPH_SETTINGS, disk / "graph") as graph:
        graph.ensure_schema()
        graph.load(tables())
        in_the_way = fill(disk)
        with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
            until(lambda: server.server.graph_open)
            with pytest.raises(OverloadedError) as refused:
                client.upsert_products([product("lamp-1")])
            assert refused.value.reason == "GRAPH_FULL"
            assert str(disk) not in str(refused.value)
            assert client.recommend("user-00", k=3).results
            listed = client.list_products(page_size=2).products
            assert [each.product_id for each in listed] == ["product-00", "product-01"]
            in_the_way.unlink()
            client.upsert_products([product("lamp-1")])


@contextmanager
def constraint(graph: Graph, text: str) -> Iterator[None]:
    """Let a constraint hold that is none of ours, for the length of a block."""
    graph.write(f"CREATE CONSTRAINT foreign_one {text}")
    try:
        yield
    finally:
        graph.write("DROP CONSTRAINT foreign_one")


@pytest.mark.neo4j
def test_a_transaction_that_fails_changes_nothing_and_says_so(home: Path, graph: Graph) -> None:
    graph.load(tables())
    with (
        running(home, lambda: nullcontext(graph)) as server,
        Client(server.target, timeout_s=30) as client,
        constraint(graph, "FOR (c:Change) REQUIRE c.key IS UNIQUE"),
    ):
        client.upsert_products([product("lamp-1", "Brass lamp")])
        with pytest.raises(CallError) as failed:
            client.upsert_products([product("lamp-1", "Steel lamp")])
        assert isinstance(failed.value, ServerUnavailableError)
        assert failed.value.reason == "GRAPH_FAILED"
        assert "lamp-1" not in str(failed.value)
        assert graph.read("MATCH (p:Product {id: 'lamp-1'}) RETURN p.title") == [["Brass lamp"]]


@pytest.mark.neo4j
def test_what_has_begun_to_write_is_finished_though_the_callers_deadline_passed(home: Path, graph: Graph) -> None:
    graph.load(tables())
    holding, over = threading.Event(), threading.Event()

    def hold(_: object) -> None:  # commits come one after the other
        holding.set()
        over.wait(60)

    with running(home, lambda: nullcontext(graph)) as server, ThreadPoolExecutor(1) as other:
        until(lambda: server.server.graph_open)
        held = other.submit(graph.commit, hold)
        try:
            assert holding.wait(60)
            with Client(server.target, timeout_s=1) as client, pytest.raises(CallError) as late:
                client.upsert_products([product("late-1")])
        finally:
            over.set()
        held.result(60)
        assert late.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: graph.read("MATCH (p:Product {id: 'late-1'}) RETURN count(p)") == [[1]])
