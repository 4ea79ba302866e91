"""Places for calls over the wire: who is late or goes away gives its place back, and nothing is done for it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kgrank.client import Client
from kgrank.errors import DeadlineError, OverloadedError
from kgrank.v1.ranking_service_pb2 import RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.engine import Engine
from server.question import Question, Ranking
from tests.server.running import Running, running


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


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
