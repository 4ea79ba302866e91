"""Concurrent questions are answered together: what arrives while a batch is being scored is the next batch.

A batch has a price of its own, and takes the interpreter from the loop that brings the next items. So while items come
at short intervals, a batch waits a moment for company; while they do not, it goes at once. An item that is answered in
less time than the way to another thread and back takes need not go there.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from server.threads import computing_threads

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")

_PATIENCE_S = 0.001
_LONGEST_GAP_S = 0.01
_NEWNESS = 0.05  # a gap's part in the mean


class Batcher(Generic[Q, A]):
    """Runs a function over batches of waiting items, one batch at a time, in a thread of its own.

    Args:
        answer: returns one answer for each item of a batch.
        max_batch: items answered together at most.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[A]], *, max_batch: int) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._thread = computing_threads(1, "score")
        self._working = threading.Lock()  # whoever answers: the thread, or a caller in its own
        self._running: asyncio.Task[None] | None = None
        self._came_s = -1.0
        self._gap_s = _LONGEST_GAP_S

    async def submit(self, item: Q) -> A:
        """Return the answer to an item; a cancelled caller's item is not worked on."""
        loop = asyncio.get_running_loop()
        came_s, self._came_s = self._came_s, loop.time()
        self._gap_s += _NEWNESS * (min(self._came_s - came_s, _LONGEST_GAP_S) - self._gap_s)
        future: asyncio.Future[A] = loop.create_future()
        place = (item, future)
        self._waiting.append(place)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it is being worked on already
                self._waiting.remove(place)
            raise

    def answered_here(self, item: Q) -> A | None:
        """Return the answer to an item, made in the caller's thread; None while anything else waits or is worked on."""
        if self._running is not None or not self._working.acquire(blocking=False):
            return None
        try:
            return self._answer([item])[0]
        finally:
            self._working.release()

    @property
    def busy(self) -> bool:
        """Whether items wait, or are being answered."""
        return self._running is not None

    async def run(self, function: Callable[[], R]) -> R:
        """Run other work of the scoring thread, between batches; a cancelled caller's is not begun."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._alone, function)

    def close(self) -> None:
        """Release the thread, once its work is done."""
        self._thread.shutdown(wait=True)

    def _alone(self, function: Callable[[], R]) -> R:
        with self._working:
            return function()

    def _answers(self, batch: Sequence[tuple[Q, asyncio.Future[A]]]) -> list[tuple[asyncio.Future[A], A]]:
        """Answer a batch, in the thread; who has gone away while it waited for the thread is passed over."""
        waiting = [(item, future) for item, future in batch if not future.cancelled()]
        with self._working:
            answers = self._answer([item for item, _ in waiting]) if waiting else ()
        return [(future, answer) for (_, future), answer in zip(waiting, answers, strict=True)]

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if len(self._waiting) < self._max_batch and self._gap_s < _PATIENCE_S:
                    await asyncio.sleep(_PATIENCE_S)
                batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
                if not batch:  # all of them went away
                    break
                try:
                    answers = await loop.run_in_executor(self._thread, self._answers, batch)
                except Exception as error:  # each caller gets it, and maps it to a status
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for future, answer in answers:
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._running = None
