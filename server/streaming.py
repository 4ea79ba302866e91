"""Many requests of one stream, worked on at once and answered as they are done."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Ended:
    """The stream of items is over; by an error, where there is one."""

    error: Exception | None = None


class _Answered(Generic[R]):
    """An answer in the queue; a class of its own, so that an answer may be anything."""

    def __init__(self, task: "asyncio.Task[R]") -> None:
        self.task = task


async def in_any_order(
    items: AsyncIterator[T], answer: Callable[[T], Awaitable[R]], *, at_once: int
) -> AsyncGenerator[R, None]:
    """Yield the answer to every item as soon as it is there.

    Args:
        items: read no faster than they are answered; their error ends the stream after the answers to those before it.
        answer: makes an answer; its error ends the stream.
        at_once: items that are worked on or wait to be yielded, at most.
    """
    arrived: asyncio.Queue[_Ended | _Answered[R]] = asyncio.Queue()
    room = asyncio.Semaphore(at_once)
    running: set[asyncio.Task[R]] = set()

    async def answered(item: T) -> R:
        return await answer(item)

    async def read() -> None:
        try:
            async for item in items:
                await room.acquire()
                task = asyncio.create_task(answered(item))
                running.add(task)
                task.add_done_callback(lambda done: arrived.put_nowait(_Answered(done)))
            arrived.put_nowait(_Ended())
        except Exception as error:
            arrived.put_nowait(_Ended(error))

    reading = asyncio.create_task(read())
    ended: _Ended | None = None
    try:
        while running or ended is None:
            event = await arrived.get()
            if isinstance(event, _Ended):
                ended = event
            else:
                running.discard(event.task)
                yield event.task.result()
                room.release()
        if ended.error is not None:
            raise ended.error
    finally:
        for task in (reading, *running):
            task.cancel()
        await asyncio.gather(reading, *running, return_exceptions=True)
