"""BatchRecommend: many requests over one stream, each with an outcome of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kgrank.client import Client
from kgrank.errors import CallError, InvalidRequestError
from kgrank.v1.ranking_service_pb2 import BatchRecommendRequest, RecommendRequest, RecommendResponse
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server import errors
from server.services.ranking import AT_ONCE
from server.streaming import in_any_order
from tests.server.running import running
from tests.waiting import until

ALONE = [("grpc.use_local_subchannel_pool", 1)]
"""A channel with a connection of its own: those of one process share theirs otherwise."""

MOST_TAKEN = 400
"""Requests of 64 kB that a caller who reads nothing gets rid of.

163 and 182 were measured; the windows grow with the speed of the line. Without `AT_ONCE` there is no end to them.
"""

OTHERS = 200
"""Calls of others that are answered while a caller who reads nothing is not read from: about a second of them."""


def asked(count: int) -> Iterator[RecommendRequest]:
    return (RecommendRequest(user_id=f"user-{number % 40:02}", k=1 + number % 7) for number in range(count))


def test_each_request_has_the_answer_of_a_call_of_its_own(client: Client) -> None:
    answers = dict(client.batch_recommend(asked(200)))
    assert set(answers) == set(range(200))
    for place, request in enumerate(asked(40)):
        answer = answers[place]
        assert isinstance(answer, RecommendResponse)
        alone = client.recommend(request.user_id, k=request.k)
        assert [result.product_id for result in answer.results] == [result.product_id for result in alone.results]
        assert [result.score for result in answer.results] == pytest.approx(
            [result.score for result in alone.results], abs=1e-4
        )
        assert answer.user_state == alone.user_state


def test_a_refused_request_leaves_the_others_alone(client: Client) -> None:
    requests = [
        RecommendRequest(user_id="user-01", k=2),
        RecommendRequest(user_id="user-01", k=0, exclude_product_ids=[""]),
        RecommendRequest(user_id="user-01", language_code="tlh"),
        RecommendRequest(user_id="user-02", k=2),
    ]
    outcomes: dict[int, RecommendResponse | CallError] = dict(client.batch_recommend(requests))
    assert [isinstance(outcomes[place], RecommendResponse) for place in range(4)] == [True, False, False, True]
    refused = outcomes[1]
    assert isinstance(refused, InvalidRequestError)
    assert refused.reason == "INVALID_FIELDS"
    assert "k is 0" in refused.message
    assert "exclude_product_ids[0] is empty" in refused.message
    assert "language_code is 'tlh'; there are en, zh" in str(outcomes[2])


def test_what_finds_no_place_waits_for_one(home: Path) -> None:
    with running(home, max_waiting=1) as server, Client(server.target) as client:
        outcomes = dict(client.batch_recommend(asked(60)))
    assert set(outcomes) == set(range(60))
    assert all(isinstance(outcome, RecommendResponse) for outcome in outcomes.values())


def test_two_streams_at_once_are_slowed_down_and_leave_room_for_calls(home: Path) -> None:
    def slow(stream: str) -> Iterator[RecommendRequest]:  # no answer to one is kept for the next
        ids = ([f"{stream}-{number}"] for number in range(60))
        return (RecommendRequest(user_id="user-01", include_reasons=True, exclude_product_ids=each) for each in ids)

    # No answer is made in so short a time: whoever finds as many places taken as are given freely is refused.
    with running(home, longest_wait_s=1e-6) as server, Client(server.target) as client:
        with ThreadPoolExecutor(2) as threads:
            streams = [threads.submit(lambda each=each: list(client.batch_recommend(slow(each)))) for each in "ab"]
            while not all(stream.done() for stream in streams):
                assert client.recommend("user-02", k=1).results
        outcomes = [outcome for stream in streams for _, outcome in stream.result()]
    assert len(outcomes) == 120
    assert all(isinstance(outcome, RecommendResponse) for outcome in outcomes)


def test_a_caller_that_reads_nothing_is_not_read_from_without_end(served: str, client: Client) -> None:
    """What such a caller is given are the windows of HTTP/2, a few MB each way, and `AT_ONCE` requests in work."""
    taken = 0
    enough = threading.Event()
    # 64 kB each way: a product that nobody has is named in the answer.
    asked_often = RecommendRequest(k=1, exclude_product_ids=[f"slow-{number:03}-{'x' * 55}" for number in range(1000)])

    def endless() -> Iterator[BatchRecommendRequest]:
        nonlocal taken
        while not enough.is_set():
            taken += 1
            yield BatchRecommendRequest(sequence=taken, request=asked_often)

    def held_up() -> bool:
        before = taken
        for _ in range(OTHERS):
            assert client.recommend("user-01", k=1).results
        return taken == before

    with grpc.insecure_channel(served, options=ALONE) as channel:
        answers = RankingServiceStub(channel).BatchRecommend(endless(), timeout=600)
        until(lambda: taken > AT_ONCE, 120)
        until(held_up, 120)
        stood = taken
        assert stood < MOST_TAKEN
        # The stream was held up, not lost: who reads at last is answered, and is read from again.
        sequences = [next(answers).sequence for _ in range(stood)]
        until(lambda: taken > stood)
        enough.set()
        sequences += [answer.sequence for answer in answers]
    assert sorted(sequences) == list(range(1, taken + 1))


def test_no_more_is_worked_on_at_once_than_allowed_and_order_is_free() -> None:
    async def run() -> None:
        gate, running_now, most = asyncio.Event(), 0, 0

        async def items() -> AsyncIterator[int]:
            for number in range(10):
                yield number

        async def answer(number: int) -> int:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            if number == 0:
                await gate.wait()  # the first one is done last
            running_now -= 1
            return number

        answers = []
        async for number in in_any_order(items(), answer, at_once=3):
            answers.append(number)
            if len(answers) == 9:
                gate.set()
        assert sorted(answers) == list(range(10))
        assert answers[-1] == 0
        assert most <= 3

    asyncio.run(run())


def test_a_stream_that_is_left_cancels_what_it_works_on() -> None:
    async def run() -> None:
        cancelled = []

        async def items() -> AsyncIterator[int]:
            for number in range(AT_ONCE):
                yield number
            await asyncio.Event().wait()

        async def answer(number: int) -> int:
            try:
                if number:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        stream = in_any_order(items(), answer, at_once=8)
        assert await anext(stream) == 0
        await stream.aclose()
        assert sorted(cancelled) == list(range(1, 8))

    asyncio.run(run())


def test_what_was_asked_before_a_malformed_message_is_answered() -> None:
    malformed = errors.InvalidRequestError([errors.Violation("", "the bytes are not a number")])

    async def run() -> None:
        broken = asyncio.Event()

        async def items() -> AsyncIterator[int]:
            for number in range(3):
                yield number
            broken.set()
            raise malformed

        async def answer(number: int) -> int:
            await broken.wait()
            await asyncio.sleep(0)
            return number

        answers = in_any_order(items(), answer, at_once=8)
        assert sorted([await anext(answers) for _ in range(3)]) == [0, 1, 2]
        with pytest.raises(errors.InvalidRequestError) as broke:
            await anext(answers)
        assert broke.value is malformed

    asyncio.run(run())


@pytest.mark.parametrize("answered", [0, 3])
def test_who_may_ask_no_more_gets_no_more_answers(answered: int) -> None:
    async def run() -> None:
        refused = asyncio.Event()
        made: list[int] = []
        left: list[int] = []
        given: list[int] = []

        async def items() -> AsyncIterator[int]:
            for number in range(8):
                yield number
            while len(made) < answered:
                await asyncio.sleep(0)
            refused.set()
            raise errors.UnauthenticatedError("the token is not known", "Ask for another.")

        async def answer(number: int) -> int:
            try:
                if number >= answered:
                    await asyncio.Event().wait()  # for a place, say: maybe without end
            except asyncio.CancelledError:
                left.append(number)
                raise
            made.append(number)
            return number

        async def read_slowly() -> None:
            async for number in in_any_order(items(), answer, at_once=9):
                given.append(number)
                await refused.wait()  # the other answers wait meanwhile

        with pytest.raises(errors.UnauthenticatedError):
            await asyncio.wait_for(read_slowly(), 60)
        assert len(given) <= 1
        assert sorted(left) == list(range(answered, 8))

    asyncio.run(run())
