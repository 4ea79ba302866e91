"""A recorded call whose caller has gone away: it is finished, and the record says what became of it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import ServiceDescriptor

from kgrank.v1.rule_service_pb2 import DeleteRuleRequest, DeleteRuleResponse
from kgrank.v1.rule_service_pb2_grpc import RuleServiceStub
from kgrank.v1.user_service_pb2 import EraseUserRequest, EraseUserResponse
from kgrank.v1.user_service_pb2_grpc import UserServiceStub
from server.access.audit import Audit, erasures
from server.app import RULES, USERS
from server.errors import UnknownRuleError
from server.rpc import Front
from tests.server.listening import channel, listening


class Slow:
    """Services that are done when the test says so."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def EraseUser(self, request: EraseUserRequest, context: object) -> EraseUserResponse:
        self.begun.set()
        await self.go_on.wait()
        return EraseUserResponse(interaction_count=3)

    async def DeleteRule(self, request: DeleteRuleRequest, context: object) -> DeleteRuleResponse:
        self.begun.set()
        await self.go_on.wait()
        raise UnknownRuleError("there is no rule with this id", "Check rule_id.")


async def left(slow: Slow, front: Front, call: grpc.aio.UnaryUnaryCall) -> None:
    """Have a caller go away while its call is worked on, and finish that."""
    async with asyncio.timeout(20):
        await slow.begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (kept,) = front.kept
        slow.go_on.set()
        await asyncio.wait([kept])
    assert not front.kept


def recorded(
    path: Path, service: ServiceDescriptor, call: Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryCall]
) -> str:
    """Make a call that a caller leaves; return the last line of its record."""

    async def finished() -> None:
        slow, front = Slow(), Front(audit=Audit(path))
        async with listening({service: slow}, front=front) as port, channel(port) as asked:
            await left(slow, front, call(asked))

    asyncio.run(finished())
    return path.read_text().splitlines()[-1]


def test_an_erasure_is_recorded_as_done_though_its_caller_has_left(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    recorded(path, USERS, lambda asked: UserServiceStub(asked).EraseUser(EraseUserRequest(user_id="u")))
    assert [each.code for each in erasures(path, "u")] == ["OK"]


def test_what_failed_is_recorded_as_that_though_its_caller_has_left(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    line = recorded(path, RULES, lambda asked: RuleServiceStub(asked).DeleteRule(DeleteRuleRequest(rule_id="r")))
    assert '"code": "NOT_FOUND"' in line


def test_calls_that_go_on_without_their_callers_have_places_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rpc._MOST_KEPT", 1)

    async def codes() -> list[grpc.StatusCode]:
        slow, front = Slow(), Front(audit=Audit(tmp_path / "audit.jsonl"))
        async with listening({USERS: slow}, front=front) as port, channel(port) as asked:
            first = UserServiceStub(asked).EraseUser(EraseUserRequest(user_id="u"))
            await slow.begun.wait()
            refused = await UserServiceStub(asked).EraseUser(EraseUserRequest(user_id="v")).code()
            slow.go_on.set()
            return [refused, await first.code()]

    assert asyncio.run(codes()) == [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK]
