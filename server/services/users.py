"""UserService: GetUserProfile, ExportUser, EraseUser."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from google.protobuf.duration_pb2 import Duration

from kg.erasure import stored_of
from kg.snapshot import MANIFEST, Snapshot
from kg.vocabulary import MISSING
from kgrank.v1.common_pb2 import InteractionType
from kgrank.v1.user_service_pb2 import (
    Affinity,
    EraseUserRequest,
    EraseUserResponse,
    ExportUserRequest,
    ExportUserResponse,
    GetUserProfileRequest,
    GetUserProfileResponse,
    PriceLevel,
    TypeCount,
    UserProfile,
)
from server.contract import TYPE_OF_CODE, Checker
from server.engine import FEW_EVENTS
from server.erasing import Eraser
from server.errors import UnknownUserError
from server.graph_link import GraphLink
from server.journal import Journal
from server.profile import Leaning, Profile, profile
from server.question import UserState
from server.reply import USER_STATES
from server.rpc import Context
from server.serving import Serving

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)

_DEFAULT_LIMIT = 10
_LARGEST_LIMIT = 100
_PART_BYTES = 64 << 10


class UserService:
    """Tells of users what is known, hands it over, and erases it."""

    def __init__(
        self, serving: Serving, link: "GraphLink[Graph]", journal: Journal, eraser: Eraser, snapshots: Path
    ) -> None:
        self._serving = serving
        self._link = link
        self._journal = journal
        self._eraser = eraser
        self._snapshots = snapshots
        self._erasures: set[asyncio.Task[EraseUserResponse]] = set()  # the loop itself keeps tasks weakly

    async def GetUserProfile(self, request: GetUserProfileRequest, context: Context) -> GetUserProfileResponse:  # noqa: N802
        """Summarise what a user did."""
        check = Checker()
        user_id = check.id("user_id", request.user_id)
        window_ms = _window_ms(check, request.window) if request.HasField("window") else None
        if not 0 <= request.limit <= _LARGEST_LIMIT:
            check.refuse("limit", f"is {request.limit}; it must be from 0 to {_LARGEST_LIMIT}")
        check.finish()
        with self._serving.admitted(reasons=True, user_id=user_id) as engine:
            histories = engine.histories
            length = histories.length(user_id)
            if not length:
                raise UnknownUserError("there are no interactions of this user", "Check user_id.")
            now_ms = time.time_ns() // 1_000_000
            window = None if window_ms is None else (now_ms - window_ms, now_ms)  # clocks that run ahead tell of later
            limit = request.limit or _DEFAULT_LIMIT
            found = await self._serving.reason(
                lambda: profile(engine.snapshot, histories.whole(user_id, len(engine.snapshot.products)), window, limit)
            )
            state = UserState.WARM if length >= FEW_EVENTS else UserState.FEW_EVENTS
            return GetUserProfileResponse(profile=_message(user_id, state, found))

    async def ExportUser(  # noqa: N802
        self, request: ExportUserRequest, context: Context
    ) -> AsyncIterator[ExportUserResponse]:
        """Hand over all that is stored of a user."""
        check = Checker()
        user_id = check.id("user_id", request.user_id)
        check.finish()
        # The journal before the graph, for searches go from here to there; each whole: half an export is none.
        of_journal = await asyncio.to_thread(lambda: list(self._of_journal(user_id)))
        of_graph = await self._link.run(lambda graph: list(stored_of(graph, user_id)))
        of_snapshots = await asyncio.to_thread(lambda: list(self._of_snapshots(user_id)))
        of_memory = await asyncio.to_thread(lambda: list(self._of_memory(user_id)))
        lines = [*({"source": "graph", **each} for each in of_graph), *of_journal, *of_snapshots, *of_memory]
        for part in _parts(lines):
            yield ExportUserResponse(json_lines=part)

    async def EraseUser(self, request: EraseUserRequest, context: Context) -> EraseUserResponse:  # noqa: N802
        """Erase a user."""
        check = Checker()
        user_id = check.id("user_id", request.user_id)
        check.finish()
        # Once begun it is finished, whether or not the caller waits for it.
        erasing = asyncio.create_task(self._erase(user_id))
        self._erasures.add(erasing)
        erasing.add_done_callback(self._erasures.discard)
        return await asyncio.shield(erasing)

    async def _erase(self, user_id: str) -> EraseUserResponse:
        erased = await self._eraser.erase(user_id)
        response = EraseUserResponse(interaction_count=erased.interactions, journal_event_count=erased.journal_events)
        response.erase_time.FromMilliseconds(erased.at_ms)
        return response

    def _of_journal(self, user_id: str) -> Iterator[dict[str, Any]]:
        for stored in self._journal.of_user(user_id):
            event = stored.event
            yield {
                "source": "journal",
                "record": "interaction",
                "event_id": event.event_id,
                "type": str(event.type),
                "product_id": event.product_id,
                "at_ms": event.at_ms,
                "value": event.value,
                "received_ms": stored.received_ms,
            }
        for search in self._journal.searches_of(user_id):
            yield {
                "source": "journal",
                "record": "search",
                "event_id": search.event_id,
                "query": search.query,
                "at_ms": search.at_ms,
            }

    def _of_snapshots(self, user_id: str) -> Iterator[dict[str, Any]]:
        for path in sorted(self._snapshots.glob(f"[!.]*/{MANIFEST}")):
            try:
                snapshot = Snapshot.open(path.parent, verify=False)
                # Looked for in the array: for one user the dictionary of all takes hundredfold.
                user_index = pc.index(snapshot.users.array, pa.scalar(user_id, snapshot.users.array.type)).as_py()
                if user_index == MISSING:
                    continue
                rows = snapshot.histories.rows(user_index)
            except Exception as error:  # of another version, or damaged, which shows as any error: nobody reads it
                _log.warning("snapshot_not_exported", snapshot=path.parent.name, reason=type(error).__name__)
                continue
            yield {
                "source": "snapshot",
                "record": "history",
                "snapshot": path.parent.name,
                "interactions": rows.stop - rows.start,
            }

    def _of_memory(self, user_id: str) -> Iterator[dict[str, Any]]:
        for histories, engine in self._serving.histories():
            history = histories.whole(user_id, len(engine.snapshot.products))
            for product_index, code, at_ms in zip(
                history.product_index.tolist(), history.type.tolist(), history.at_ms.tolist(), strict=True
            ):
                yield {
                    "source": "memory",
                    "record": "interaction",
                    "type": str(TYPE_OF_CODE[code]),
                    "product_id": engine.snapshot.products.id(product_index),
                    "at_ms": at_ms,
                }
        past = self._serving.past
        for search in () if past is None else past.kept_of(user_id):
            yield {"source": "memory", "record": "search", "query": search.query, "at_ms": search.at_ms}


def _window_ms(check: Checker, window: Duration) -> int:
    if window.seconds < 0 or window.nanos < 0 or window.nanos >= 1_000_000_000:
        check.refuse("window", "is negative, or not a duration")
    return window.seconds * 1000 + window.nanos // 1_000_000


def _message(user_id: str, state: UserState, found: Profile) -> UserProfile:
    message = UserProfile(
        user_id=user_id,
        state=USER_STATES[state],
        interaction_count=found.count,
        types=[
            TypeCount(type=InteractionType.Value(f"INTERACTION_TYPE_{TYPE_OF_CODE[code].name}"), count=count)
            for code, count in found.types.items()
        ],
        brands=_affinities(found.brands),
        categories=_affinities(found.categories),
        interests=_affinities(found.interests),
    )
    if found.first_ms is not None and found.last_ms is not None:
        message.first_time.FromMilliseconds(found.first_ms)
        message.last_time.FromMilliseconds(found.last_ms)
    if found.prices is not None:
        prices = found.prices
        message.price_level.CopyFrom(
            PriceLevel(median=prices.median, lower=prices.lower, upper=prices.upper, percentile=prices.percentile)
        )
    return message


def _affinities(leanings: Iterable[Leaning]) -> list[Affinity]:
    return [
        Affinity(kind=each.kind, id=each.id, name=each.name, weight=each.weight, count=each.count) for each in leanings
    ]


def _parts(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield whole lines, together of at most `_PART_BYTES` unless one alone is longer."""
    part = bytearray()
    for line in lines:
        encoded = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if part and len(part) + len(encoded) > _PART_BYTES:
            yield bytes(part)
            part.clear()
        part += encoded
    if part:
        yield bytes(part)
