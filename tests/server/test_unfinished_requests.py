"""Calls whose request does not come: they keep nobody out, and are not waited for without end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from kgrank.v1.ranking_service_pb2 import RecommendRequest, RecommendResponse
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.access import tokens
from server.access.config import AccessSettings
from server.access.gate import Gate
from server.access.roles import Role
from server.app import RANKING, USERS
from server.arrivals import Arrivals
from server.config import ServeSettings
from server.rpc import Front
from tests.server.frames import HELLO, headers, settings_frame
from tests.server.listening import channel, listening

RECOMMEND = "/kgrank.v1.RankingService/Recommend"
CALLS = (RECOMMEND, "/kgrank.v1.UserService/ExportUser")


class Ranking:
    async def Recommend(self, request: RecommendRequest, context: object) -> RecommendResponse:
        return RecommendResponse(model_version=request.user_id)


class Users:
    async def ExportUser(self, request: object, context: object) -> AsyncIterator[bytes]:
        yield b""


SERVICERS = {RANKING: Ranking(), USERS: Users()}


async def unfinished(port: int, count: int, path: str = RECOMMEND) -> asyncio.StreamWriter:
    """Begin so many calls on a connection of their own, and send no request."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HELLO + settings_frame() + b"".join(headers(path, 2 * number + 1) for number in range(count)))
    await writer.drain()
    return writer


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def none() -> AsyncIterator[bytes]:
    return
    yield b""


@pytest.mark.parametrize("path", CALLS)
def test_calls_without_a_token_are_refused_before_their_request_has_come(tmp_path: Path, path: str) -> None:
    _, token = tokens.create(tmp_path / "tokens.json", "shop", [Role.READ])
    front = Front(Gate(AccessSettings(required=True, tokens_file=tmp_path / "tokens.json")))

    async def answered() -> str:
        async with listening(SERVICERS, ServeSettings(max_calls=5), front) as port, channel(port) as asked:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked.stream_unary(path)(never(), timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            writer = await unfinished(port, 5, path)
            call = RankingServiceStub(asked).Recommend
            request, metadata = RecommendRequest(user_id="u"), [("authorization", f"Bearer {token}")]
            async with asyncio.timeout(20):
                while True:
                    try:
                        answer: RecommendResponse = await call(request, metadata=metadata, timeout=20)
                    except grpc.aio.AioRpcError:  # the five have just come
                        continue
                    writer.close()
                    return answer.model_version

    assert asyncio.run(answered()) == "u"


def test_where_too_many_wait_for_their_request_the_oldest_is_let_go() -> None:
    async def answered() -> tuple[grpc.StatusCode, str]:
        front = Front(arrivals=Arrivals(3))
        async with listening(SERVICERS, front=front) as port, channel(port) as asked:
            oldest = asked.stream_unary(RECOMMEND)(never(), timeout=20)
            await oldest.wait_for_connection()
            while not front.arrivals.waiting:
                await asyncio.sleep(0)
            writer = await unfinished(port, 50)
            code = await oldest.code()
            answer = await RankingServiceStub(asked).Recommend(RecommendRequest(user_id="u"), timeout=20)
            writer.close()
            return code, answer.model_version

    assert asyncio.run(answered()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "u")


@pytest.mark.parametrize("path", CALLS)
def test_a_request_that_does_not_come_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("server.arrivals.WITHIN_S", 0.2)
    monkeypatch.setattr("server.arrivals._LOOK_EVERY_S", 0.05)

    async def ended() -> grpc.StatusCode:
        async with listening(SERVICERS) as port, channel(port) as asked:
            code = await asked.stream_unary(path)(never(), timeout=20).code()
            assert await RankingServiceStub(asked).Recommend(RecommendRequest(), timeout=20) == RecommendResponse()
            return code

    assert asyncio.run(ended()) == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", CALLS)
def test_a_call_that_ends_without_a_request_is_refused(path: str) -> None:
    async def ended() -> grpc.StatusCode:
        async with listening(SERVICERS) as port, channel(port) as asked:
            return await asked.stream_unary(path)(none(), timeout=20).code()

    assert asyncio.run(ended()) == grpc.StatusCode.INVALID_ARGUMENT


def test_who_leaves_before_the_request_has_come_leaves_nothing_behind() -> None:
    async def left() -> int:
        arrivals = Arrivals()
        async with listening(SERVICERS, front=Front(arrivals=arrivals)) as port, channel(port) as asked:
            call = asked.stream_unary(RECOMMEND)(never())
            async with asyncio.timeout(20):
                while not arrivals.waiting:
                    await asyncio.sleep(0)
                call.cancel()
                while arrivals.waiting:
                    await asyncio.sleep(0)
            return arrivals.waiting

    assert asyncio.run(left()) == 0
