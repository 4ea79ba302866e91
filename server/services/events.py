"""EventService: WriteEvent, WriteEvents, IngestEvents."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import compress

from kgrank.v1.event_service_pb2 import (
    EventOutcome,
    IngestEventsRequest,
    IngestEventsResponse,
    WriteEventRequest,
    WriteEventResponse,
    WriteEventsRequest,
    WriteEventsResponse,
)
from server.attribution import Attribution
from server.contract import WrittenEvent, written_events
from server.errors import GraphBehindError, UnknownProductError
from server.journal import Journal
from server.journal_insert import Stored
from server.rpc import Context
from server.serving import Serving

_IN_FLIGHT = 256
"""Events of one stream that wait for the disk together; the caller is held back beyond these."""


class EventService:
    """Acknowledges an event once it is in the journal and in the history that the next answer is made of.

    Args:
        serving: the histories and the catalogue.
        journal: where events are stored.
        attribution: counts what is stored by the answers that led to it.
        max_undrained: events that wait for the graph before new ones are refused; None: there is no graph, none do.
    """

    def __init__(
        self, serving: Serving, journal: Journal, attribution: Attribution, max_undrained: int | None = None
    ) -> None:
        self._serving = serving
        self._attribution = attribution
        self._journal = journal
        self._max_undrained = max_undrained

    async def WriteEvent(self, request: WriteEventRequest, context: Context) -> WriteEventResponse:  # noqa: N802
        """Write one event."""
        (outcome,) = await self._write(written_events([request.event], "event", _now_ms()))
        if outcome.status == EventOutcome.STATUS_UNKNOWN_PRODUCT:
            raise UnknownProductError("the catalogue does not have this product", "Check event.product_id.")
        return WriteEventResponse(outcome=outcome)

    async def WriteEvents(self, request: WriteEventsRequest, context: Context) -> WriteEventsResponse:  # noqa: N802
        """Write events together."""
        return WriteEventsResponse(outcomes=await self._write(written_events(request.events, "events[{}]", _now_ms())))

    async def IngestEvents(  # noqa: N802
        self, requests: AsyncIterator[IngestEventsRequest], context: Context
    ) -> AsyncIterator[IngestEventsResponse]:
        """Write events as they come, many on their way to the disk at once, and acknowledge them in order."""
        writing: asyncio.Queue[asyncio.Future[list[EventOutcome]] | None] = asyncio.Queue(_IN_FLIGHT)
        reading = asyncio.create_task(self._ingest(requests, writing))
        try:
            while (written := await writing.get()) is not None:
                (outcome,) = await written
                yield IngestEventsResponse(outcome=outcome)
        finally:
            reading.cancel()
            while not writing.empty():
                left = writing.get_nowait()
                if left is not None:
                    left.add_done_callback(_heard)

    async def _ingest(
        self,
        requests: AsyncIterator[IngestEventsRequest],
        writing: "asyncio.Queue[asyncio.Future[list[EventOutcome]] | None]",
    ) -> None:
        """Take events from a stream in order; what is wrong with one ends the stream, after those before it."""
        try:
            async for request in requests:
                events = written_events([request.event], "event", _now_ms())
                await writing.put(asyncio.ensure_future(self._write(events)))
        except Exception as error:
            failed: asyncio.Future[list[EventOutcome]] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            await writing.put(failed)
        else:
            await writing.put(None)

    async def _write(self, events: Sequence[WrittenEvent]) -> list[EventOutcome]:
        # A model on trial recommends what its own snapshot has.
        catalogues = [engine.snapshot.products for _, engine in self._serving.lineup.histories()]
        named = [each if each.event_id else replace(each, event_id=uuid.uuid4().hex) for each in events]
        # Looked up once: catalogues may grow while the disk is waited for.
        in_catalogue = [any(each.product_id in products for products in catalogues) for each in named]
        known = list(compress(named, in_catalogue))
        if known and self._max_undrained is not None and self._journal.behind >= self._max_undrained:
            raise GraphBehindError(
                f"{self._journal.behind:,} events wait for the graph, as many as may",
                "It takes them when it is back; look at it, and try again later.",
            )
        # Of a call that is repeated the product may have been deleted since.
        asked = [each.event_id for each, is_known in zip(events, in_catalogue, strict=True) if not is_known]
        before = await asyncio.to_thread(self._journal.known, asked) if any(asked) else set()
        stored: Iterator[Stored] = iter(())
        if known:
            stored = iter(await _told(self._journal.append(known)))
        outcomes = []
        for each, is_known in zip(named, in_catalogue, strict=True):
            status = EventOutcome.STATUS_UNKNOWN_PRODUCT
            if is_known:
                status = EventOutcome.STATUS_DUPLICATE if next(stored).duplicate else EventOutcome.STATUS_WRITTEN
                if status == EventOutcome.STATUS_WRITTEN:
                    self._attribution.written(each.attribution_token, each.type)
            elif each.event_id in before:
                status = EventOutcome.STATUS_DUPLICATE
            outcomes.append(EventOutcome(event_id=each.event_id, status=status))
        return outcomes


def _told(written: "Future[list[Stored]]") -> "asyncio.Future[list[Stored]]":
    """Return the loop's own future of a write; whoever goes away and cancels it takes back nothing.

    Unlike `asyncio.wrap_future` it does not wake the loop for each write: the journal does, once for a transaction.
    """
    loop, home = asyncio.get_running_loop(), threading.get_ident()
    told: asyncio.Future[list[Stored]] = loop.create_future()

    # Neither names `written`, which holds them: such a cycle for each event kept the collector busy.
    def tell(written: "Future[list[Stored]]") -> None:
        if told.done():
            return
        error = written.exception()
        if error is None:
            told.set_result(written.result())
        else:
            told.set_exception(error)

    def ended(written: "Future[list[Stored]]") -> None:
        if threading.get_ident() == home:
            tell(written)
        else:  # it failed: that is told where it happens
            loop.call_soon_threadsafe(tell, written)

    written.add_done_callback(ended)
    return told


def _heard(written: "asyncio.Future[list[EventOutcome]]") -> None:
    """Take note of how a write ended whose caller is gone."""
    if not written.cancelled():
        written.exception()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
