"""Requests on their way: a call is let in by its headers, and its request may come later, or never.

gRPC itself waits for the request of a unary call without end, and before it asks anybody: who sends headers alone would
take all places of a server without a token. So every method is a stream of requests to gRPC, of which one is read here.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from server.errors import InvalidRequestError, OverloadedError, Violation

if TYPE_CHECKING:
    from server.rpc import Context

WITHIN_S = 30.0
"""A request that has not come whole after so long is not waited for any more: at most 1 s later."""

MOST = 1024
"""So many calls wait for their requests at once. Those of clients, which send them together with the headers, wait for
less than a millisecond: beyond that number the oldest is let go, and it is none of them."""

_LOOK_EVERY_S = 1.0
_CANCELLED_WITHIN_S = 0.1


class Arrivals:
    """Calls that wait for their requests. Its methods belong to the event loop's thread.

    Args:
        most: at once.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._since_s: dict[asyncio.Task[object], float] = {}  # the oldest first
        self._let_go: set[asyncio.Task[object]] = set()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._since_s)

    async def request(self, context: "Context") -> bytes:
        """Return the bytes of a call's one request. Called by the task that answers it.

        Raises:
            InvalidRequestError: the caller sends none.
            OverloadedError: it has not come in time.
        """
        task = asyncio.current_task()
        assert task is not None  # gRPC makes one for each call
        if len(self._since_s) >= self._most:
            self._end(next(iter(self._since_s)))
        # One timer for all: setting one for each call took a twentieth of the time that gRPC takes for it.
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        self._since_s[task] = time.monotonic()
        try:
            serialised = await context.read()
            if isinstance(serialised, bytes):
                return serialised
            await asyncio.sleep(_CANCELLED_WITHIN_S)  # the end of a stream; of a call that is over, gRPC tells it first
        except asyncio.CancelledError:
            if task in self._let_go and not task.uncancel():
                raise OverloadedError("the request has not come whole in time", "Send it again.") from None
            raise
        finally:
            self._since_s.pop(task, None)
            self._let_go.discard(task)
        raise InvalidRequestError([Violation("", "there is no request: the caller sends none")])

    def _look(self) -> None:
        now_s = time.monotonic()
        for task, since_s in list(self._since_s.items()):
            if now_s - since_s < WITHIN_S:
                break
            self._end(task)
        again = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look) if self._since_s else None
        self._looking = again

    def _end(self, task: "asyncio.Task[object]") -> None:
        del self._since_s[task]
        self._let_go.add(task)
        task.cancel()
