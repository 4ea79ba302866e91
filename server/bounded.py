"""Work beside the scoring: a few threads of its own, and a bound on what waits for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.errors import OverloadedError

R = TypeVar("R")


class BoundedThreads:
    """Threads that refuse work when too much of it is there. Its methods belong to the event loop's thread.

    Args:
        name: begins the threads' names.
        threads: how many.
        max_waiting: calls, running ones included, before new ones are refused.
    """

    def __init__(self, name: str, *, threads: int, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._count = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def admit(self) -> None:
        """Refuse a call, before any work is done for it, when too many are there.

        Raises:
            OverloadedError: try again later.
        """
        if self._count >= self._max_waiting:
            raise OverloadedError(f"{self._count} requests are waiting", "Try again a little later.")

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function; a cancelled caller's is not begun.

        Raises:
            OverloadedError: too many are there; nothing was done.
        """
        self.admit()
        self._count += 1
        work = self._threads.submit(function)
        loop = asyncio.get_running_loop()
        # Counted to its own end: what runs already goes on after its caller has left.
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end))
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Release the threads, once their work is done."""
        self._threads.shutdown(wait=True)

    def _end(self) -> None:
        self._count -= 1
