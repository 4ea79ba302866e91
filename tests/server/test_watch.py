"""What the server tells of itself: metrics, probes, logs."""

import asyncio
import queue
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from kg.config import GraphSettings
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import InvalidRequestError, ServerUnavailableError
from kgrank.v1.ranking_service_pb2 import BatchRecommendRequest, RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.engine import Engine
from server.journal_file import JournalFile
from server.listening import PortTakenError
from server.question import Question, Ranking
from server.watch.answers import AnswerWatch
from server.watch.config import WatchSettings
from server.watch.metrics import Metrics
from server.watch.web import Web
from tests.server.running import Connect, Running, running
from tests.server.shop import tables
from tests.waiting import until

USER = "a-person@example.com"


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def values(port: int) -> dict[tuple[str, ...], float]:
    """Return every value by its name and the values of its labels, these by their names."""
    _, text = fetch(port, "/metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class AlwaysWell:
    """What a healthy server tells its probes."""

    alive = ready = True


@contextmanager
def watched(home: Path, connect: Connect | None = None, **settings: object) -> Iterator[tuple[Running, int]]:
    # Every answer is worked out: what is told of that is counted here.
    with running(home, connect, kept_answers_mib=0, watch={"metrics_port": 0, **settings}) as server:
        port = server.server.metrics_port
        assert port is not None
        yield server, port


def test_calls_batches_answers_and_models_are_told(home: Path) -> None:
    recommend = "kgrank.v1.RankingService.Recommend"
    with watched(home) as (server, port), Client(server.target) as client:
        version = client.recommend("user-01", k=5).model_version
        for _ in range(3):
            client.recommend("user-01", k=5)
        client.recommend("nobody-knows", k=5)
        with pytest.raises(InvalidRequestError):
            client.recommend("user-01", k=-1)
        client.write_event(event(USER, "product-01", event_id="w-1"))
        told = values(port)
        _, text = fetch(port, "/metrics")
    assert told["kgrank_calls_total", "OK", recommend] == 5
    assert told["kgrank_calls_total", "INVALID_ARGUMENT", recommend] == 1
    # Told from the start, so that the first one is a rise.
    assert told["kgrank_calls_total", "INTERNAL", recommend] == 0
    assert told["kgrank_calls_total", "UNAVAILABLE", recommend] == 0
    assert told["kgrank_call_seconds_count", recommend] == 6
    assert told["kgrank_batch_size_sum",] == 5
    assert told["kgrank_answers_total", "warm"] == 4
    assert told["kgrank_answers_total", "cold"] == 1
    assert told["kgrank_model_active", version] == 1
    assert told["kgrank_catalogue_products",] == 90
    assert told["kgrank_calls_admitted",] == 0
    assert ("kgrank_coverage_ratio",) not in told  # a few answers cover little
    assert not any(each in text for each in (USER, "user-01", "nobody-knows", "product-01"))


def test_a_product_that_was_taken_out_is_not_told_as_one_that_can_be_ranked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(home) as (server, port):
        snapshot = server.server._serving.engine.snapshot
        less = replace(snapshot, products=snapshot.products.changed(["fresh"], ["product-01", "product-02"]))
        monkeypatch.setattr(server.server._serving.engine, "snapshot", less)
        assert values(port)["kgrank_catalogue_products",] == 89


def test_what_fails_in_a_stream_is_counted_and_logged_under_its_request_id(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = "kgrank.v1.RankingService.BatchRecommend"
    answer = Engine.answer

    def fails_for_one(engine: Engine, questions: Sequence[Question]) -> list[Ranking]:
        if any(each.user_id == USER for each in questions):
            raise RuntimeError("a defect")
        return answer(engine, questions)

    requests = [RecommendRequest(user_id="user-01", k=2), RecommendRequest(user_id="user-01", k=-1)]
    with structlog.testing.capture_logs() as logged, watched(home) as (server, port):
        monkeypatch.setattr(Engine, "answer", fails_for_one)
        before = values(port)
        with grpc.insecure_channel(server.target) as channel:
            for number, request in enumerate((*requests, RecommendRequest(user_id=USER, k=2))):
                told = iter([BatchRecommendRequest(sequence=number, request=request)])
                id_ = [("x-request-id", f"r-{number}")]
                assert len(list(RankingServiceStub(channel).BatchRecommend(told, metadata=id_, timeout=60))) == 1
        after = values(port)
    assert before["kgrank_stream_outcomes_total", "INTERNAL", batch] == 0  # told from the start: the first is a rise
    counted = {name[1]: value for name, value in after.items() if name[0] == "kgrank_stream_outcomes_total"}
    assert counted == {"OK": 1, "INVALID_ARGUMENT": 1, "INTERNAL": 1, "UNAVAILABLE": 0}
    assert after["kgrank_calls_total", "OK", batch] == 3
    lines = {each["event"]: each for each in logged if each.get("method") == batch}
    assert lines["call_refused"]["request_id"] == "r-1"
    assert lines["call_failed"]["request_id"] == "r-2"


def a_graph_that_is_away(home: Path) -> Connect:
    nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
    return lambda: Graph.connect(nowhere, home / "graph")


def test_events_wait_for_a_graph_where_there_is_to_be_one(home: Path) -> None:
    for connect in (a_graph_that_is_away(home), None):
        with watched(home, connect) as (server, port), Client(server.target) as client:
            client.write_event(event(USER, "product-01", event_id="w-1"))
            told = values(port)
        assert told["kgrank_journal_readable",] == 1
        if connect is None:
            assert not {("kgrank_journal_events_waiting",), ("kgrank_journal_lag_seconds",)} & told.keys()
        else:
            assert told["kgrank_journal_events_waiting",] == 1
            assert 0 <= told["kgrank_journal_lag_seconds",] < 60


def test_a_scrape_reads_at_most_one_event_of_the_journal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, connection = list[str](), JournalFile.connection

    @contextmanager
    def traced(file: JournalFile) -> Iterator[sqlite3.Connection]:
        with connection(file) as made:
            if "process_request_thread" in threading.current_thread().name:
                made.set_trace_callback(read.append)
            yield made

    monkeypatch.setattr(JournalFile, "connection", traced)
    for connect in (a_graph_that_is_away(home), None):
        with watched(home, connect) as (server, port), Client(server.target) as client:
            client.write_event(event(USER, "product-01", event_id="w-1"))
            read.clear()
            assert values(port)["kgrank_journal_readable",] == 1
        assert read
        of_events = [each for each in read if "FROM event" in each]
        assert len(of_events) == (0 if connect is None else 1)
        assert all(each.endswith("LIMIT 1") for each in of_events)


def test_what_can_t_be_read_is_left_out_and_said_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*of: object) -> dict[str, float]:
        raise RuntimeError("a defect")

    with structlog.testing.capture_logs() as logged, watched(home) as (_, port):
        monkeypatch.setattr(AnswerWatch, "drift", fail)
        for _ in range(3):
            told = values(port)
            assert told["kgrank_ready",] == told["kgrank_journal_readable",] == told["kgrank_rules_known",] == 1
            assert ("kgrank_process_start_time_seconds",) in told or ("process_start_time_seconds",) in told
    assert [each["gauges"] for each in logged if each["event"] == "gauges_not_read"] == ["answered"]


def test_searches_that_find_no_room_are_answered_and_counted(home: Path) -> None:
    with (
        running(home, a_graph_that_is_away(home), max_undrained=1, watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        assert client.search("thing", USER, k=3).results
        until(lambda: values(port)["kgrank_journal_searches_waiting",] == 1)
        assert client.search("acme", USER, k=3).results
        until(lambda: values(port).get(("kgrank_searches_not_stored_total", "behind")) == 1)
        assert values(port)["kgrank_journal_searches_waiting",] == 1


@pytest.mark.neo4j
def test_an_erased_user_in_a_snapshot_is_told_until_it_is_rewritten(home: Path, graph: Graph) -> None:
    graph.load(tables())
    lock = home / "snapshots" / ".erasing.lock"
    lock.mkdir()  # as on a disk that can only be read
    with (
        running(home, lambda: nullcontext(graph), watch={"metrics_port": 0}) as server,
        Client(server.target) as client,
    ):
        port = server.server.metrics_port
        assert port is not None
        until(lambda: server.server.graph_open)
        assert values(port)["kgrank_snapshots_redacted",] == 1
        with pytest.raises(ServerUnavailableError):
            client.erase_user("user-07")
        assert values(port)["kgrank_snapshots_redacted",] == 0
        lock.rmdir()
        client.erase_user("user-07")
        assert values(port)["kgrank_snapshots_redacted",] == 1


def test_probes_tell_alive_from_ready(home: Path, tmp_path: Path) -> None:
    with watched(home) as (_, port):
        assert [fetch(port, path)[0] for path in ("/livez", "/readyz", "/other")] == [200, 200, 404]
    with watched(tmp_path / "empty") as (_, port):
        assert [fetch(port, path)[0] for path in ("/livez", "/readyz")] == [200, 503]


@contextmanager
def standing_still(server: Running) -> Iterator[None]:
    """Keep a server's event loop from turning until the block ends."""
    goes_on = threading.Event()
    server.loop.call_soon_threadsafe(goes_on.wait, 60)
    try:
        yield
    finally:
        goes_on.set()


def test_a_server_that_leaves_or_whose_loop_stands_still_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.readiness.LONGEST_STALL_S", 1.5)
    asked: queue.SimpleQueue[BatchRecommendRequest | None] = queue.SimpleQueue()
    with (
        running(home, drain_s=60, watch={"metrics_port": 0}) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        port = server.server.metrics_port
        assert port is not None

        def dies_and_lives_again() -> None:
            with standing_still(server):
                until(lambda: fetch(port, "/livez")[0] == 503)
            until(lambda: fetch(port, "/livez")[0] == 200)

        dies_and_lives_again()
        held = RankingServiceStub(channel).BatchRecommend(iter(asked.get, None), timeout=240)
        try:
            asked.put(BatchRecommendRequest(sequence=1, request=RecommendRequest(k=1)))
            next(held)  # it is inside, and has the server drain until it ends
            stopping = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
            until(lambda: fetch(port, "/readyz")[0] == 503)
            dies_and_lives_again()
            assert not stopping.done()
        finally:
            asked.put(None)
        stopping.result(60)


def test_events_are_counted_by_the_model_that_led_to_them(home: Path) -> None:
    with watched(home) as (server, port), Client(server.target) as client:
        answer = client.recommend("user-01", k=3)
        shown = answer.results[0].product_id
        for number, token in enumerate(
            (answer.attribution_token, "", "another.token", "no-token", answer.model_version)
        ):
            client.write_event(event("user-01", shown, "purchase", event_id=f"e-{number}", attribution_token=token))
        client.write_event(event("user-01", shown, event_id="e-0", attribution_token=answer.attribution_token))
        told = values(port)
    assert told["kgrank_answers_given_total", answer.model_version] == 1
    assert told["kgrank_events_written_total", answer.model_version, "purchase"] == 1
    assert told["kgrank_events_written_total", "none", "purchase"] == 1
    assert told["kgrank_events_written_total", "other", "purchase"] == 3
    assert sum(value for name, value in told.items() if name[0] == "kgrank_events_written_total") == 5


def test_a_journal_that_can_t_be_read_is_told_beside_all_else(home: Path) -> None:
    with watched(home, a_graph_that_is_away(home)) as (_, port):
        told = values(port)
        assert (told["kgrank_journal_readable",], told["kgrank_journal_events_waiting",]) == (1, 0)
        journal = home / "journal.db"
        whole = journal.read_bytes()
        journal.write_bytes(b"\xff" * 8000 + whole[8000:])
        told = values(port)
        journal.write_bytes(whole)
    assert told["kgrank_journal_readable",] == 0
    assert told["kgrank_ready",] == 1
    assert ("kgrank_journal_events_waiting",) not in told


def test_nothing_is_told_unless_asked_for_and_a_taken_port_is_named(home: Path) -> None:
    with running(home) as server:
        assert server.server.metrics_port is None
    with watched(home) as (_, port), pytest.raises(PortTakenError, match=f"127.0.0.1:{port}") as taken:
        Web(WatchSettings(metrics_port=port), Metrics().registry, AlwaysWell())
    assert "serve.watch.metrics_port" in taken.value.remedy


@pytest.mark.parametrize(("host", "asked"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("::", "127.0.0.1")])
def test_metrics_are_told_over_ipv6_too(host: str, asked: str) -> None:
    web = Web(WatchSettings(metrics_port=0, metrics_host=host), Metrics().registry, AlwaysWell())
    try:
        with urllib.request.urlopen(f"http://{asked}:{web.port}/livez", timeout=20) as answer:
            assert answer.status == 200
    finally:
        web.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.9"])
def test_a_host_that_is_not_this_machine_is_not_taken_for_a_taken_port(host: str) -> None:
    with pytest.raises(PortTakenError, match=f"the metrics can't listen on {host}:0") as refused:
        Web(WatchSettings(metrics_port=0, metrics_host=host), Metrics().registry, AlwaysWell())
    assert refused.value.remedy.startswith("Check serve.watch.metrics_host")


def test_a_call_s_line_has_its_request_id_and_no_person(home: Path) -> None:
    with structlog.testing.capture_logs() as logged, running(home, watch={"log_calls": True}) as server:
        with grpc.insecure_channel(server.target) as channel:
            RankingServiceStub(channel).Recommend(
                RecommendRequest(user_id=USER, k=3), metadata=[("x-request-id", "r-99")], timeout=20
            )
        with Client(server.target) as client, pytest.raises(InvalidRequestError) as refused:
            client.recommend(USER, k=-1)
    (line,) = [each for each in logged if each["event"] == "call" and each["code"] == "OK"]
    assert (line["method"], line["request_id"]) == ("kgrank.v1.RankingService.Recommend", "r-99")
    assert line["ms"] > 0
    # A caller that sent no id can still be told which line is about its call.
    (told,) = [each for each in logged if each["event"] == "call_refused"]
    assert told["request_id"] == refused.value.metadata["request_id"] != ""
    assert USER not in str(logged)
