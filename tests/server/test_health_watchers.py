"""Who asks for health without end, or does not read what it is told: nobody else hears of it."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from server.config import ServeSettings
from server.health import NOT_SERVING, SERVING, Health
from tests.server.frames import HEADERS, HELLO, frame_kind, headers, message, settings_frame
from tests.server.listening import channel, listening

ANY = health_pb2.HealthCheckRequest(service="")
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def check(asked: grpc.aio.Channel, service: str = "") -> int:
    return (await HealthStub(asked).Check(health_pb2.HealthCheckRequest(service=service), timeout=20)).status


async def next_of(watched: grpc.aio.UnaryStreamCall) -> int:
    async with asyncio.timeout(20):
        return (await watched.read()).status


def test_a_watcher_hears_of_changes_also_when_another_one_has_left() -> None:
    async def heard() -> list[int]:
        told = Health()
        told.set("", NOT_SERVING)
        async with listening({}, told=told) as port, channel(port) as one, channel(port) as other:
            leaves, stays = HealthStub(one).Watch(ANY), HealthStub(other).Watch(ANY)
            before = [await next_of(leaves), await next_of(stays)]
            leaves.cancel()
            await one.close()
            await check(other)  # the server has heard of it
            told.set("", SERVING)
            after = [await next_of(stays)]
            told.leave()
            told.set("", SERVING)  # comes too late
            return [*before, *after, await next_of(stays), await check(other)]

    assert asyncio.run(heard()) == [NOT_SERVING, NOT_SERVING, SERVING, NOT_SERVING, NOT_SERVING]


def test_a_watcher_that_takes_nothing_holds_up_nobody() -> None:
    async def heard() -> list[int]:
        told = Health()
        told.set("", NOT_SERVING)
        async with listening({}, told=told) as port, channel(port) as asked:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HELLO + settings_frame(window=0))
            writer.write(headers("/grpc.health.v1.Health/Watch") + message(b""))
            while await frame_kind(reader) != HEADERS:  # the answer has begun; of the rest it takes nothing
                pass
            watched = HealthStub(asked).Watch(ANY)
            first = await next_of(watched)
            told.set("", SERVING)
            second = await next_of(watched)
            told.leave()
            third = await next_of(watched)
            writer.close()
            return [first, second, third]

    assert asyncio.run(heard()) == [NOT_SERVING, SERVING, NOT_SERVING]


def test_a_service_that_is_not_there_is_not_found_and_may_be_watched() -> None:
    async def asked_for() -> None:
        told = Health()
        async with listening({}, told=told) as port, channel(port) as asked:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await check(asked, "later")
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
            watched = HealthStub(asked).Watch(health_pb2.HealthCheckRequest(service="later"))
            assert await next_of(watched) == UNKNOWN
            told.set("later", SERVING)
            assert await next_of(watched) == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked.unary_unary("/grpc.health.v1.Health/Check")(b"\xff", timeout=20)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(asked_for())


def test_watchers_and_unfinished_checks_take_some_of_the_places_and_no_more() -> None:
    async def crowded() -> None:
        told = Health()
        told.set("", SERVING)
        settings = ServeSettings(max_calls=60)  # 16 of them for each
        async with listening({}, settings, told=told) as port, channel(port) as asked:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            begun = (headers("/grpc.health.v1.Health/Check", 2 * number + 1) for number in range(100))
            writer.write(HELLO + settings_frame() + b"".join(begun))
            watched = [HealthStub(asked).Watch(ANY) for _ in range(16)]
            assert [await next_of(each) for each in watched] == [SERVING] * 16
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await HealthStub(asked).Watch(ANY).read()
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await check(asked) == SERVING
            watched.pop().cancel()
            async with asyncio.timeout(20):
                while (again := HealthStub(asked).Watch(ANY)) and not await begins(again):
                    pass
            writer.close()

    async def begins(watched: grpc.aio.UnaryStreamCall) -> bool:
        try:
            return (await watched.read()).status == SERVING
        except grpc.aio.AioRpcError:
            return False

    asyncio.run(crowded())
