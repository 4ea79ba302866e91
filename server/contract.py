"""The contract's requests as questions and interactions, checked; every violated field is named, not just the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from kg.tables import CODES, MAX_ID_BYTES, InteractionType
from kg.wording import ENGLISH, WORDINGS
from kgrank.v1 import common_pb2, event_service_pb2, ranking_service_pb2
from server.contract_selection import filter_of, has_control, mix_of, names_of, query_of
from server.errors import InvalidRequestError, Violation
from server.question import ContextEvent, Question

DEFAULT_RESULTS = 10
MOST_REASONS = 3
DEFAULT_LANGUAGE = ENGLISH.language
MAX_EVENTS = 1000
MAX_CONTEXT = 1000
AHEAD_MS = 5 * 60_000
"""How far ahead of the server's clock an event may be."""

_EARLIEST_MS = 0
_MOST_SHOWN = 40

_CODE_OF_ENUM: dict[int, int] = {
    common_pb2.InteractionType.Value(f"INTERACTION_TYPE_{kind.name}"): code for kind, code in CODES.items()
}
TYPE_OF_CODE = {code: kind for kind, code in CODES.items()}


@dataclass(frozen=True)
class Limits:
    """The largest requests that are accepted."""

    results: int
    candidates: int


@dataclass(frozen=True, slots=True)
class WrittenEvent:
    """An event to store; `event_id` is empty where the caller gave none, `value` None where there is none.

    The answer that led to it (`attribution_token`) is counted, and not stored.
    """

    event_id: str
    user_id: str
    product_id: str
    type: InteractionType
    at_ms: int
    value: float | None
    attribution_token: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Told:
    """What a request tells of the moment: interactions, products looked at, and what is looked for."""

    events: tuple[ContextEvent, ...] = ()
    seeds: tuple[str, ...] = ()
    query: str = ""
    categories: tuple[str, ...] = ()


class Checker:
    """Collects what is wrong with a request."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def refuse(self, field: str, description: str) -> None:
        """Note one violation."""
        self.violations.append(Violation(field, description))

    def finish(self) -> None:
        """Raise `InvalidRequestError` if anything was noted."""
        if self.violations:
            raise InvalidRequestError(self.violations)

    def id(self, field: str, value: str, *, optional: bool = False) -> str:
        """Check an outside id."""
        if not value:
            if not optional:
                self.refuse(field, "is empty")
        elif len(value) * 4 > MAX_ID_BYTES and len(value.encode()) > MAX_ID_BYTES:
            self.refuse(field, f"has {len(value.encode())} bytes; at most {MAX_ID_BYTES} are allowed")
        elif has_control(value):
            self.refuse(field, "has control characters")
        return value

    def ids(self, field: str, values: Sequence[str], limit: int) -> tuple[str, ...]:
        """Check a list of ids and its length, repeats counted."""
        if len(values) > limit:  # before any is looked at: there may be millions
            self.refuse(field, f"has {len(values)} ids; at most {limit} are allowed")
            return ()
        checked = tuple(values)
        # One look at all of them: each by itself costs more than to rank them.
        if not all(checked) or 4 * max(map(len, checked), default=0) > MAX_ID_BYTES or has_control("".join(checked)):
            for position, value in enumerate(checked):
                self.id(f"{field}[{position}]", value)
        return checked

    def count(self, field: str, value: int, limit: int) -> int:
        """Check a number from 1 to a limit."""
        if not 1 <= value <= limit:
            self.refuse(field, f"is {value}; it must be from 1 to {limit}")
        return value

    def type(self, field: str, value: int) -> int:
        """Check an interaction type; return its code."""
        if value not in _CODE_OF_ENUM:
            what = "is not set" if value == common_pb2.INTERACTION_TYPE_UNSPECIFIED else f"has no value {value}"
            self.refuse(field, what)
        return _CODE_OF_ENUM.get(value, 0)

    def at(self, field: str, value: Timestamp, now_ms: int) -> int:
        """Check a moment; return it in milliseconds since the epoch."""
        at_ms = value.seconds * 1000 + value.nanos // 1_000_000
        if not 0 <= value.nanos < 1_000_000_000:
            self.refuse(f"{field}.nanos", f"is {value.nanos}; it must be from 0 to 999,999,999")
        elif at_ms < _EARLIEST_MS:
            self.refuse(field, "is before 1970")
        elif at_ms > now_ms + AHEAD_MS:
            self.refuse(field, f"is {(at_ms - now_ms) // 1000} s ahead of the server's clock; 300 s are allowed")
        return at_ms

    def language(self, value: str) -> str:
        """Check a BCP 47 tag; return the language of `kg.wording.WORDINGS` that it asks for, whatever its region."""
        language = (value or DEFAULT_LANGUAGE).partition("-")[0].lower()
        if language not in WORDINGS:
            self.refuse("language_code", f"is {value[:_MOST_SHOWN]!r}; there are {', '.join(WORDINGS)}")
        return language

    def value(self, field: str, value: float) -> float:
        """Check a rating or quantity."""
        if not math.isfinite(value):
            self.refuse(field, f"is {value}; it must be finite")
        return value

    def context(self, context: common_pb2.Context, now_ms: int) -> Told:
        """Check what a request tells of the moment."""
        if not context.ByteSize():  # most requests tell nothing
            return Told()
        seeds = self.ids("context.seed_product_ids", context.seed_product_ids, MAX_CONTEXT)
        query = query_of(self, "context.query", context.query) if context.query else ""
        categories = names_of(self, "context.categories", context.categories)
        if len(context.events) > MAX_CONTEXT:
            self.refuse("context.events", f"has {len(context.events)}; at most {MAX_CONTEXT} are allowed")
            return Told(seeds=seeds)
        events = []
        for position, each in enumerate(context.events):
            field = f"context.events[{position}]"
            events.append(
                ContextEvent(
                    product_id=self.id(f"{field}.product_id", each.product_id),
                    type=self.type(f"{field}.type", each.type),
                    at_ms=self.at(f"{field}.at", each.at, now_ms) if each.HasField("at") else None,
                    value=self.value(f"{field}.value", each.value) if each.HasField("value") else math.nan,
                )
            )
        return Told(tuple(events), seeds, query, categories)


def recommend_question(request: ranking_service_pb2.RecommendRequest, limits: Limits, now_ms: int) -> Question:
    """Return what a Recommend request asks.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    told = check.context(request.context, now_ms)
    question = Question(
        user_id=check.id("user_id", request.user_id, optional=True),
        k=check.count("k", request.k, limits.results) if request.HasField("k") else DEFAULT_RESULTS,
        exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
        exclude=check.ids("exclude_product_ids", request.exclude_product_ids, limits.candidates),
        candidates=check.ids("allowed_product_ids", request.allowed_product_ids, limits.candidates) or None,
        events=told.events,
        seeds=told.seeds,
        query=told.query,
        categories=told.categories,
        filter=filter_of(check, request.filter),
        mix=mix_of(check, request.mix),
        pinned=True,
        language=check.language(request.language_code),
    )
    check.finish()
    return question


def rank_question(request: ranking_service_pb2.RankRequest, limits: Limits, now_ms: int) -> Question:
    """Return what a Rank request asks.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    told = check.context(request.context, now_ms)
    if not request.product_ids:
        check.refuse("product_ids", "is empty; give the candidates to rank")
    question = Question(
        user_id=check.id("user_id", request.user_id, optional=True),
        k=check.count("k", request.k, limits.candidates) if request.HasField("k") else None,
        exclude_seen=False,
        candidates=check.ids("product_ids", request.product_ids, limits.candidates),
        events=told.events,
        seeds=told.seeds,
        query=told.query,
        categories=told.categories,
        language=check.language(request.language_code),
    )
    check.finish()
    return question


def explain_question(request: ranking_service_pb2.ExplainRequest, now_ms: int) -> tuple[Question, int]:
    """Return what an Explain request asks, and how many reasons it wants.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    told = check.context(request.context, now_ms)
    reasons = (
        check.count("max_reasons", request.max_reasons, MOST_REASONS)
        if request.HasField("max_reasons")
        else MOST_REASONS
    )
    question = Question(
        user_id=check.id("user_id", request.user_id, optional=True),
        k=1,
        exclude_seen=False,
        candidates=(check.id("product_id", request.product_id),),
        events=told.events,
        seeds=told.seeds,
        query=told.query,
        categories=told.categories,
        by_rules=False,
        language=check.language(request.language_code),
    )
    check.finish()
    return question, reasons


def search_question(request: ranking_service_pb2.SearchRequest, limits: Limits, now_ms: int) -> Question:
    """Return what a Search request asks. The query of its context is passed over: it has one of its own.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    told = check.context(request.context, now_ms)
    question = Question(
        user_id=check.id("user_id", request.user_id, optional=True),
        k=check.count("k", request.k, limits.results) if request.HasField("k") else DEFAULT_RESULTS,
        exclude_seen=False,
        exclude=check.ids("exclude_product_ids", request.exclude_product_ids, limits.candidates),
        candidates=check.ids("allowed_product_ids", request.allowed_product_ids, limits.candidates) or None,
        events=told.events,
        seeds=told.seeds,
        query=query_of(check, "query", request.query),
        categories=told.categories,
        filter=filter_of(check, request.filter),
        mix=mix_of(check, request.mix),
        language=check.language(request.language_code),
        only_found=True,
        pinned=True,
    )
    check.finish()
    return question


def similar_question(request: ranking_service_pb2.SimilarProductsRequest, limits: Limits) -> tuple[str, Question]:
    """Return the product of a SimilarProducts request, and what it asks of those like it.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    product_id = check.id("product_id", request.product_id)
    question = Question(
        user_id="",
        k=check.count("k", request.k, limits.results) if request.HasField("k") else DEFAULT_RESULTS,
        exclude=check.ids("exclude_product_ids", request.exclude_product_ids, limits.candidates),
        candidates=check.ids("allowed_product_ids", request.allowed_product_ids, limits.candidates) or None,
        filter=filter_of(check, request.filter),
        mix=mix_of(check, request.mix),
        language=check.language(request.language_code),
    )
    check.finish()
    return product_id, question


def written_events(events: Sequence[event_service_pb2.Event], prefix: str, now_ms: int) -> list[WrittenEvent]:
    """Return the events of a request; `prefix` is the path of an event with `{}` for its place.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    if not events:
        check.refuse("events", "is empty")
    elif len(events) > MAX_EVENTS:
        check.refuse("events", f"has {len(events)}; at most {MAX_EVENTS} are allowed")
        check.finish()
    written = [_written_event(check, each, prefix.format(place), now_ms) for place, each in enumerate(events)]
    check.finish()
    return written


def _written_event(check: Checker, each: event_service_pb2.Event, field: str, now_ms: int) -> WrittenEvent:
    return WrittenEvent(
        event_id=check.id(f"{field}.event_id", each.event_id, optional=True),
        user_id=check.id(f"{field}.user_id", each.user_id),
        product_id=check.id(f"{field}.product_id", each.product_id),
        type=TYPE_OF_CODE[check.type(f"{field}.type", each.type)],
        at_ms=check.at(f"{field}.at", each.at, now_ms) if each.HasField("at") else now_ms,
        value=check.value(f"{field}.value", each.value) if each.HasField("value") else None,
        attribution_token=each.attribution_token,
    )
