"""Places for calls over the wire: who is late or goes away gives its place back, and nothing is done for it."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # generated, ships no marker
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from kg.paths import Reasoner
from kgrank.client import Client
from kgrank.errors import DeadlineError, OverloadedError
from kgrank.v1.ranking_service_pb2 import RankRequest, RecommendRequest, SimilarProductsRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.admission import MANY, Admission
from server.engine import Engine
from server.question import Question, Ranking
from tests.server.running import Running, running
from tests.waiting import until


@contextmanager
def stopped(server: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hold the scoring thread until the block ends; yield the users that are answered from then on."""
    gate, answered = threading.Event(), list[str]()
    answer = Engine.answer

    def noted(engine: Engine, questions: Sequence[Question]) -> list[Ranking]:
        answered.extend(question.user_id for question in questions)
        return answer(engine, questions)

    monkeypatch.setattr(Engine, "answer", noted)
    server.loop.call_soon_threadsafe(lambda: server.loop.create_task(server.server._serving._batcher.run(gate.wait)))
    try:
        yield answered
    finally:
        gate.set()


def many_wait(admission: Admission, monkeypatch: pytest.MonkeyPatch, wait_s: float) -> None:
    """Let as many calls be inside as make others wait, and the next one wait for so long."""
    monkeypatch.setattr(admission, "taken", MANY)
    monkeypatch.setattr(admission, "_each_s", wait_s / MANY)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch, step: str) -> Iterator[list[bool]]:
    """Hold every search for reasons at a method of the reasoner until the block ends; yield one entry for each call."""
    gate, begun, plain = threading.Event(), list[bool](), getattr(Reasoner, step)

    def holding(*given: Any, **more: Any) -> Any:
        begun.append(True)
        gate.wait(60)
        return plain(*given, **more)

    monkeypatch.setattr(Reasoner, step, holding)
    try:
        yield begun
    finally:
        gate.set()


@pytest.mark.parametrize("leaving", ["late", "gone"])
def test_who_leaves_gives_its_place_back_and_is_not_worked_for(
    home: Path, leaving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home, max_waiting=2) as server, Client(server.target) as client, Client(server.target) as other:
        taken = server.server._serving.calls
        with stopped(server, monkeypatch) as answered, grpc.insecure_channel(server.target) as channel:
            if leaving == "late":
                with pytest.raises(DeadlineError), Client(server.target, timeout_s=0.3) as hasty:
                    hasty.recommend("user-01", k=1)
            else:
                call = RankingServiceStub(channel).Recommend.future(RecommendRequest(user_id="user-01", k=1))
                until(lambda: taken.taken == 1)
                call.cancel()
            until(lambda: taken.taken == 0)
            waiting = [threading.Thread(target=client.recommend, args=(f"user-0{each}",)) for each in (2, 3)]
            for thread in waiting:
                thread.start()
            until(lambda: taken.taken == 2)
            with pytest.raises(OverloadedError) as refused:
                other.recommend("user-04")
            assert refused.value.retry_after_s == pytest.approx(0.2)
        for thread in waiting:
            thread.join()
    assert set(answered) == {"user-02", "user-03"}


@pytest.mark.parametrize(("method", "step"), [("Rank", "paths"), ("Rank", "reasons"), ("SimilarProducts", "reasons")])
def test_no_more_reasons_are_looked_for_once_the_caller_is_gone(
    home: Path, method: str, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = {
        "Rank": RankRequest(user_id="user-01", product_ids=[f"product-{each:02}" for each in range(90)]),
        "SimilarProducts": SimilarProductsRequest(product_id="product-01", k=50),
    }
    request = requests[method]
    request.include_reasons = True
    with capture_logs() as lines, running(home) as server, grpc.insecure_channel(server.target) as channel:
        serving = server.server._serving
        lines.clear()
        with held(monkeypatch, step) as begun:
            call = getattr(RankingServiceStub(channel), method).future(request, timeout=60)
            until(lambda: bool(begun))
            call.cancel()
            until(lambda: serving.calls.taken == serving._calls_for_reasons.taken == 0)
        with Client(server.target) as client:
            assert client.recommend("user-02", k=1).results
    # The server has ended, for which it has waited for its threads.
    assert len(begun) == 1
    assert not [line for line in lines if line["log_level"] not in ("debug", "info")]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_burst_beyond_the_places_is_refused_at_once_while_those_inside_are_answered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, places, more = RecommendRequest(user_id="user-01", k=1), 3, 200
    with running(home, max_waiting=places) as server, grpc.insecure_channel(server.target) as channel:
        ranking, taken = RankingServiceStub(channel), server.server._serving.calls
        with stopped(server, monkeypatch):
            inside = [ranking.Recommend.future(request, timeout=60) for _ in range(places)]
            until(lambda: taken.taken == places)
            burst = [ranking.Recommend.future(request, timeout=60) for _ in range(more)]
            refused = [call.exception() for call in burst]  # while nobody is answered
            # Who is not ranked for is answered, too.
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            with Client(server.target) as client:
                assert client.list_models()
        answered = [call.result() for call in inside]
    assert all(answer.results for answer in answered)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    codes = Counter(error.code() for error in refused)
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED: more}
    for error in refused:
        told = dict(error.trailing_metadata())["grpc-status-details-bin"]
        details = {each.TypeName(): each for each in status_pb2.Status.FromString(told).details}
        why, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        details["google.rpc.ErrorInfo"].Unpack(why)
        details["google.rpc.RetryInfo"].Unpack(retry)
        assert why.reason == "OVERLOADED"
        assert retry.retry_delay == Duration(nanos=200_000_000)


def test_a_call_without_a_place_is_refused_before_its_request_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home, max_waiting=1) as server, grpc.insecure_channel(server.target) as channel:
        asked = RankingServiceStub(channel).Recommend
        unread = channel.stream_unary("/kgrank.v1.RankingService/Recommend", response_deserializer=bytes)
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(60)
            yield b""

        with stopped(server, monkeypatch):
            inside = asked.future(RecommendRequest(user_id="user-01", k=1), timeout=60)
            until(lambda: server.server._serving.calls.taken == 1)
            with pytest.raises(grpc.RpcError) as refused:
                unread(nothing(), timeout=60)
            never.set()
        assert inside.result().results
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_a_call_whose_deadline_comes_before_its_turn_is_not_worked_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home, longest_wait_s=60) as server, Client(server.target, timeout_s=30) as client:
        taken = server.server._serving.calls
        client.recommend("user-01", k=1)
        with stopped(server, monkeypatch) as answered:
            many_wait(taken, monkeypatch, wait_s=20)
            with Client(server.target, timeout_s=10) as hasty, pytest.raises(OverloadedError) as refused:
                hasty.recommend("user-02", k=1)
            patient = threading.Thread(target=client.recommend, args=("user-03",))
            patient.start()
            until(lambda: taken.taken == MANY + 1)
        patient.join()
    assert refused.value.retry_after_s == pytest.approx(0.2)
    assert answered == ["user-03"]


def test_after_a_slow_spell_a_call_in_a_hurry_is_let_in_where_few_are_inside(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home) as server, Client(server.target, timeout_s=30) as hasty:
        taken = server.server._serving.calls
        many_wait(taken, monkeypatch, wait_s=1000)
        taken.taken = MANY - 1
        assert hasty.recommend("user-01", k=1).results
