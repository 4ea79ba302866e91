import asyncio
import threading
from collections.abc import Sequence

import pytest

from server.batching import Batcher
from server.bounded import BoundedThreads
from server.errors import OverloadedError


class Gate:
    """Answers with the number doubled, once it is opened; remembers the batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(30)
        if -1 in items:
            raise ValueError("minus one")
        return [item * 2 for item in items]


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 30)


def test_what_waits_is_answered_together_in_order() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=3, max_waiting=10)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 6)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
        assert gate.batches == [[0], [1, 2, 3], [4, 5]]
        batcher.close()

    asyncio.run(run())


def test_too_many_waiting_are_refused_and_a_cancelled_caller_frees_its_place() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8, max_waiting=2)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        waiting = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit(3)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        late = asyncio.create_task(batcher.submit(4))
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, waiting[1], late) == [0, 4, 8]
        assert gate.batches == [[0], [2, 4]]
        batcher.close()

    asyncio.run(run())


def test_a_failed_batch_fails_its_own_callers_only() -> None:
    async def run() -> None:
        gate = Gate()
        gate.open.set()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8, max_waiting=8)
        with pytest.raises(ValueError, match="minus one"):
            await batcher.submit(-1)
        assert await batcher.submit(4) == 8
        batcher.close()

    asyncio.run(run())


def test_other_work_of_the_thread_counts_as_waiting_and_is_refused_too() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8, max_waiting=2)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        others = [asyncio.create_task(batcher.run(lambda: 7)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.run(lambda: 7)
        with pytest.raises(OverloadedError):
            await batcher.submit(1)
        gate.open.set()
        assert list(await asyncio.gather(first, *others)) == [0, 7, 7]
        assert await batcher.run(lambda: 8) == 8
        batcher.close()

    asyncio.run(run())


def test_threads_with_too_much_work_refuse_more_until_some_is_done() -> None:
    async def run() -> None:
        gate = Gate()
        threads = BoundedThreads("test", threads=1, max_waiting=2)
        running = [asyncio.create_task(threads.run(lambda: gate([1]))) for _ in range(2)]
        await entered(gate)
        with pytest.raises(OverloadedError):
            await threads.run(lambda: gate([2]))
        gate.open.set()
        assert await asyncio.gather(*running) == [[2], [2]]
        assert await threads.run(lambda: gate([3])) == [6]
        threads.close()

    asyncio.run(run())
