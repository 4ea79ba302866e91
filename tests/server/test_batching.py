import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from server.admission import Admission
from server.batching import Batcher
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
        batcher: Batcher[int, int] = Batcher(gate, max_batch=3)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 6)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
        assert gate.batches == [[0], [1, 2, 3], [4, 5]]
        batcher.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("gap_s", "moments", "batch"), [(0.0005, 1, [1, 2, 3]), (0.005, 0, [1])], ids=["short gaps", "long gaps"]
)
def test_while_items_come_at_short_gaps_a_batch_waits_a_moment_for_company(
    gap_s: float, moments: int, batch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        gate, loop = Gate(), asyncio.get_running_loop()
        gate.open.set()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=4)
        now_s, asked_s = 0.0, list[float]()
        company: list[asyncio.Task[int]] = []
        monkeypatch.setattr(loop, "time", lambda: now_s)

        async def submitted(number: int) -> int:
            nonlocal now_s
            now_s += gap_s
            return await batcher.submit(number)

        def moment(delay_s: float, callback: Callable[..., object], *args: object) -> asyncio.Handle:
            asked_s.append(delay_s)
            company.extend(asyncio.create_task(submitted(number)) for number in (2, 3))
            return loop.call_soon(callback, *args)

        # Full batches need no company, and teach what the gaps are.
        await asyncio.gather(*(submitted(0) for _ in range(100)))
        gate.batches.clear()
        monkeypatch.setattr(loop, "call_later", moment)  # of this loop: servers of other tests have their own
        assert await submitted(1) == 2
        assert await asyncio.gather(*company) == [item * 2 for item in batch[1:]]
        assert gate.batches == [batch]
        assert len(asked_s) == moments
        assert all(0 < delay_s <= 0.002 for delay_s in asked_s)
        batcher.close()

    asyncio.run(run())


def test_a_cancelled_callers_item_is_not_worked_on() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        waiting = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        gate.open.set()
        assert await asyncio.gather(first, waiting[1]) == [0, 4]
        assert gate.batches == [[0], [2]]
        batcher.close()

    asyncio.run(run())


def test_a_failed_batch_fails_its_own_callers_only() -> None:
    async def run() -> None:
        gate = Gate()
        gate.open.set()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8)
        with pytest.raises(ValueError, match="minus one"):
            await batcher.submit(-1)
        assert await batcher.submit(4) == 8
        batcher.close()

    asyncio.run(run())


def test_other_work_of_the_thread_goes_between_batches() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8)
        first = asyncio.create_task(batcher.submit(0))
        await entered(gate)
        other = asyncio.create_task(batcher.run(lambda: len(gate.batches)))
        await asyncio.sleep(0)
        last = asyncio.create_task(batcher.submit(1))
        gate.open.set()
        assert await asyncio.gather(first, other, last) == [0, 1, 2]
        batcher.close()

    asyncio.run(run())


def test_a_call_too_many_is_refused_until_one_has_ended() -> None:
    admission = Admission(2)
    with admission.place():
        with admission.place(), pytest.raises(OverloadedError), admission.place():
            pass
        with admission.place():
            pass


def test_a_call_that_fails_gives_its_place_back() -> None:
    admission = Admission(1)
    with pytest.raises(ValueError, match="mine"), admission.place():
        raise ValueError("mine")
    with admission.place():
        pass


def test_an_item_is_answered_at_once_only_while_nothing_else_is() -> None:
    async def run() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(gate, max_batch=8)
        for work in (batcher.submit(1), batcher.run(lambda: gate([2]))):
            gate.entered.clear()
            gate.open.clear()
            first = asyncio.create_task(work)
            await entered(gate)
            assert batcher.answered_here(3) is None
            gate.open.set()
            await first
            assert batcher.answered_here(3) == 6
        with pytest.raises(ValueError, match="minus one"):
            batcher.answered_here(-1)
        assert batcher.answered_here(4) == 8  # a failure gives the place back
        assert gate.batches == [[1], [3], [2], [3], [-1], [4]]
        batcher.close()

    asyncio.run(run())
