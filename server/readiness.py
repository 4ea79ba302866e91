"""Whether this server lives, and whether calls may come to it: for gRPC's health service and the probes over HTTP.

Calls may come once there is a model, the shop's rules are known, and what other servers committed before this one
started has been followed: a user whom they erased, or a product that they took out, must not be back for a moment.
For each of these a server waits only so long; one whose graph is away serves with what it has.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from server.follow import Follower
from server.graph_link import GraphLink
from server.health import NOT_SERVING, SERVING, Health
from server.serving import Serving

_log = structlog.get_logger(__name__)

LONGEST_STALL_S = 60.0
"""A server whose event loop has not turned for so long is taken for dead."""

_FOLLOWS_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.02
_BEAT_S = 1.0


class Readiness:
    """Its methods belong to the event loop's thread; its properties may be read from any.

    Args:
        serving: what is in service.
        follower: applies what other servers committed.
        link: the graph that they committed it to.
        always: full names of services that answer from the start; where models are listed and put into service.
        then: full names of those that answer once calls may come.
    """

    def __init__(
        self,
        serving: Serving,
        follower: Follower,
        link: GraphLink[Any],
        *,
        always: Sequence[str],
        then: Sequence[str],
    ) -> None:
        self.health = Health()
        self._serving, self._follower, self._link = serving, follower, link
        self._always, self._then = always, then
        self._followed = self._leaving = False
        self._turned_s = time.monotonic()
        self._beating: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether calls may come."""
        return self._serving.ready and self._followed and not self._leaving

    @property
    def alive(self) -> bool:
        """Whether the event loop turns."""
        return time.monotonic() - self._turned_s < LONGEST_STALL_S

    def begin(self) -> None:
        """Say that calls may not come yet."""
        self._beating = asyncio.create_task(self._beat(), name="beat")
        for name in self._always:
            self.health.set(name, SERVING)
        for name in ("", *self._then):
            self.health.set(name, NOT_SERVING)

    def say(self) -> None:
        """Say that calls may come, if they may."""
        if self.ready:
            for name in ("", *self._then):
                self.health.set(name, SERVING)

    async def follow(self) -> None:
        """Wait until what others committed has been followed, or can't be for now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FOLLOWS_WITHIN_S):
                while self._link.configured and not (self._follower.caught_up or self._link.is_away):
                    await asyncio.sleep(_LOOK_EVERY_S)
        if self._link.is_open and not self._follower.caught_up:
            _log.warning("serving_while_behind", waited_s=_FOLLOWS_WITHIN_S, applied=self._follower.applied)
        self._followed = True

    def leave(self) -> None:
        """Say that no more calls may come."""
        self._leaving = True
        self.health.leave()

    def end(self) -> None:
        """Have no more to say: the server has left. It may drain for minutes, and is alive while it does."""
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._turned_s = time.monotonic()
            await asyncio.sleep(_BEAT_S)
