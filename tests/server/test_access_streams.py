"""A stream that is open while its caller loses the right to it: it ends, as a new call would."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import pytest

from kgrank.client import event
from kgrank.errors import CallError, UnauthenticatedError, decode
from kgrank.v1 import user_service_pb2
from kgrank.v1.event_service_pb2 import EventOutcome, IngestEventsRequest
from kgrank.v1.event_service_pb2_grpc import EventServiceStub
from kgrank.v1.ranking_service_pb2 import BatchRecommendRequest, RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from kgrank.v1.user_service_pb2 import ExportUserRequest, ExportUserResponse
from kgrank.v1.user_service_pb2_grpc import UserServiceStub
from server import errors
from server.access import tokens
from server.access.config import AccessSettings
from server.access.gate import Gate
from server.access.roles import Need, Role
from server.rpc import Front, service_handler
from tests.server.guarded import Guarded

_SOON_S = 60
_OF_USERS = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]

Request = TypeVar("Request")
Response = TypeVar("Response")


def sent_one_by_one(
    stream: Callable[..., Iterator[Response]], token: str, requests: Iterator[Request]
) -> Iterator[Response]:
    """Send a request, yield its answer, send the next: for as long as the server lets it."""
    answered: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def waiting() -> Iterator[Request]:
        for request in requests:
            yield request
            if not answered.get():
                return

    try:
        for answer in stream(waiting(), metadata=[("authorization", f"Bearer {token}")], timeout=_SOON_S):
            yield answer
            answered.put(True)
    finally:
        answered.put(False)


def error_of(answers: Iterator[Response]) -> CallError:
    """Take what is left of a stream; return the error that it ends in, soon."""
    with pytest.raises(grpc.RpcError) as refused:
        for _ in answers:
            pass
    return decode(refused.value)


def test_a_stream_of_events_ends_when_its_token_is_revoked(guarded: Guarded) -> None:
    record, token = tokens.create(guarded.tokens, "leaving", [Role.WRITE_EVENTS])
    guarded.taken_up(token)
    events = (
        IngestEventsRequest(event=event("streamer", "product-01", "view", event_id=f"look-{number}"))
        for number in itertools.count()
    )
    with grpc.insecure_channel(guarded.server.target) as channel:
        outcomes = sent_one_by_one(EventServiceStub(channel).IngestEvents, token, events)
        assert next(outcomes).outcome.status == EventOutcome.STATUS_WRITTEN
        tokens.revoke(guarded.tokens, record.token_id)
        error = error_of(outcomes)
    assert (type(error), error.reason) == (UnauthenticatedError, "UNAUTHENTICATED")


def test_a_stream_of_questions_ends_when_its_token_does(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_ms, looked = time.time_ns() // 1_000_000 + 3_600_000, threading.Event()

    def just_before() -> int:
        looked.set()
        return ends_ms - 1

    _, token = tokens.create(guarded.tokens, "until-then", [Role.READ], expires_ms=ends_ms)
    guarded.taken_up(token)
    asked = (BatchRecommendRequest(sequence=number, request=RecommendRequest(k=1)) for number in itertools.count())
    with grpc.insecure_channel(guarded.server.target) as channel:
        answers = sent_one_by_one(RankingServiceStub(channel).BatchRecommend, token, asked)
        assert next(answers).WhichOneof("outcome") == "response"
        monkeypatch.setattr("server.access.tokens._now_ms", just_before)
        while not looked.is_set():
            next(answers)
        assert next(answers).WhichOneof("outcome") == "response"
        monkeypatch.setattr("server.access.tokens._now_ms", lambda: ends_ms)
        error = error_of(answers)
    assert (type(error), error.reason) == (UnauthenticatedError, "UNAUTHENTICATED")


class Exporting:
    """Exports users that never come to an end."""

    async def ExportUser(self, request: ExportUserRequest, context: object) -> AsyncIterator[ExportUserResponse]:
        """Yield parts until the caller is gone."""
        while True:
            yield ExportUserResponse(json_lines=b"{}")
            await asyncio.sleep(0)  # what reads files would let others run as well


def test_a_stream_of_answers_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    record, token = tokens.create(tmp_path / "tokens.json", "leaving", [Role.ADMIN])

    async def exported() -> grpc.aio.AioRpcError | None:
        gate = Gate(AccessSettings(required=True, tokens_file=tmp_path / "tokens.json"))
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service_handler(_OF_USERS, Exporting(), Front(gate)),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = UserServiceStub(channel).ExportUser(
                    ExportUserRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=_SOON_S
                )
                assert await call.read() != grpc.aio.EOF
                tokens.revoke(tmp_path / "tokens.json", record.token_id)
                gate.refresh()
                while await call.read() != grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as refused:
            return refused
        finally:
            await server.stop(0)
        return None

    refused = asyncio.run(exported())
    assert refused is not None
    assert refused.code() == grpc.StatusCode.UNAUTHENTICATED


class Called:
    """What the gate sees of a call with a token; counts how often it looks."""

    def __init__(self, token: str) -> None:
        self.looks = 0
        self._token = token

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """Return the token."""
        self.looks += 1
        return [("authorization", f"Bearer {self._token}")]

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return nothing: there is no certificate."""
        return {}

    def peer(self) -> str:
        """Return an address."""
        return "ipv4:127.0.0.1:1"


def test_a_stream_s_caller_is_looked_at_once_a_second_and_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s = [100.0]
    monkeypatch.setattr("server.access.gate.monotonic", lambda: clock_s[-1])
    _, token = tokens.create(tmp_path / "tokens.json", "shop", [Role.READ], calls_per_s=1e-6)
    gate = Gate(AccessSettings(required=True, tokens_file=tmp_path / "tokens.json"))
    called = Called(token)
    gate.let_in(Need(Role.READ), called)
    held = gate.hold(Need(Role.READ), called)
    for now_s in (100.0, 100.9, 101.0, 101.5, 102.1):
        clock_s.append(now_s)
        held.check()
    assert called.looks == 1 + 2  # at 101.0 and 102.1
    (tmp_path / "tokens.json").unlink()
    gate.refresh()
    held.check()
    clock_s.append(103.5)
    with pytest.raises(errors.UnauthenticatedError):
        held.check()
