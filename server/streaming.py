"""Many requests of one stream, worked on at once and answered as they are done."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from server.errors import InvalidRequestError

T = TypeVar("T")
R = TypeVar("R")


async def in_any_order(
    items: AsyncIterator[T], answer: Callable[[T], Awaitable[R]], *, at_once: int
) -> AsyncGenerator[R, None]:
    """Yield the answer to every item as soon as it is there.

    Args:
        items: read no faster than they are answered; their error ends the stream at once, whatever is worked on, but
            for an `InvalidRequestError`: those before a malformed one are answered first.
        answer: makes an answer; its error ends the stream.
        at_once: items that are worked on or wait to be yielded, at most.
    """
    done: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()  # None: reading is
    room = asyncio.Semaphore(at_once)
    running: set[asyncio.Task[R]] = set()

    async def answered(item: T) -> R:
        return await answer(item)

    async def read() -> None:
        async for item in items:
            await room.acquire()
            task = asyncio.create_task(answered(item))
            running.add(task)
            task.add_done_callback(done.put_nowait)

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: done.put_nowait(None))
    try:
        while running or not reading.done():
            task = await done.get()
            if reading.done() and not isinstance(reading.exception(), InvalidRequestError):
                reading.result()
            if task is not None:
                running.discard(task)
                yield task.result()
                room.release()
        reading.result()
    finally:
        for each in (reading, *running):
            each.cancel()
        await asyncio.gather(reading, *running, return_exceptions=True)
