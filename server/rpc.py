"""Services to gRPC: one place that every call goes through, from its bytes to its answer or its error.

A call finds a place (`server.door`), passes the gate (who calls, may they, not too often), is waited for
(`server.arrivals`) and decoded, is recorded where the audit log wants it, is answered by its service, and is counted;
whatever it ends in becomes a status in one place. Nothing of a request is read before its caller is let in.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from server.access.audit import Audit
from server.access.config import AccessSettings
from server.access.gate import Caller, Gate, Held
from server.access.roles import need_of
from server.admission import Admission, no_place
from server.arrivals import Arrivals
from server.door import Door
from server.errors import (
    AuditError,
    Failure,
    InvalidRequestError,
    OverloadedError,
    RateLimitedError,
    Violation,
    failure,
    prepared,
    refused_again,
    status_code,
)
from server.watch.metrics import MethodMetrics, Metrics
from server.watch.traces import Traces

REQUEST_ID_KEY = "x-request-id"
_MOST_REQUEST_ID = 128
_OK = grpc.StatusCode.OK
_NO_PLACE = prepared(no_place())
_MOST_KEPT = 256

Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Front:
    """What stands before all services; by default the gate alone, open to anybody.

    Calls that are recorded are in `kept` for as long as they are worked on, whether or not anybody waits for them.
    """

    gate: Gate = field(default_factory=lambda: Gate(AccessSettings()))
    audit: Audit | None = None
    metrics: Metrics | None = None
    traces: Traces | None = None
    log_calls: bool = False
    arrivals: Arrivals = field(default_factory=Arrivals)
    kept: set[asyncio.Task[Any]] = field(default_factory=set)  # the loop itself keeps tasks weakly


@dataclass(frozen=True, slots=True)
class Outcome:
    """The response to one request of a stream, and what a call of its own would have ended in; the stream's is OK."""

    response: Message | bytes
    code: grpc.StatusCode = _OK


def service_handler(
    service: ServiceDescriptor, servicer: object, front: Front, admission: Admission | None = None
) -> grpc.GenericRpcHandler:
    """Return a handler for all methods of a service.

    Args:
        service: the service, as the contract has it.
        servicer: has a method for each RPC, by the RPC's name: `async (request, context) -> response`, where the
            response is a stream an async generator of responses, where the request is one an async iterator of them.
            A response may be serialised already; one of a stream may be an `Outcome`.
        front: what a call passes first.
        admission: has the places that the servicer's calls take; those of streams, each request one.
    """
    methods = {
        f"/{service.full_name}/{method.name}": _Method(method, getattr(servicer, method.name), front, admission)
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    return Door(
        {path: method.handler() for path, method in methods.items()},
        {path: method.refusing_handler() for path, method in methods.items() if method.takes_a_place},
        admission,
    )


class _Method:
    """One method of a service; `one` and `many` are gRPC's handlers of its calls."""

    def __init__(
        self,
        method: MethodDescriptor,
        answer: Callable[[Any, Context], Any],
        front: Front,
        admission: Admission | None,
    ) -> None:
        self._method = method
        self.takes_a_place = admission is not None and not method.server_streaming
        self._admission = admission if self.takes_a_place else None
        self._name = method.full_name
        self._request_class = message_factory.GetMessageClass(method.input_type)
        self._need = need_of(method.full_name)
        self._front = front
        self._gate = front.gate
        self._audit = front.audit if self._need.audited else None
        self._metrics: MethodMetrics | None = None
        if front.metrics is not None:
            outcomes = method.server_streaming and "error" in method.output_type.fields_by_name
            self._metrics = front.metrics.method(self._name, outcomes=outcomes)
        self._answer = answer
        if front.traces is not None:
            self._answer = front.traces.traced(self._name, answer, stream=method.server_streaming)

    def handler(self) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return the handler that gRPC takes; it gets the bytes of requests as they came."""
        # Of requests all are streams: a call of one alone would be told of only once that has come.
        if self._method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self.many, response_serializer=_serialise)
        return grpc.stream_unary_rpc_method_handler(self.one, response_serializer=_serialise)

    def refusing_handler(self) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return the handler of calls for which there is no place."""
        return grpc.stream_unary_rpc_method_handler(self.none)

    async def none(self, requests: object, context: Context) -> None:
        """Refuse a call."""
        told = refused_again(_NO_PLACE) if not request_id(context) else None
        told = told or self._told(no_place(), context)
        self._ended(told.code, None, None, context)
        await context.abort(told.code, told.message, told.trailing)

    async def one(self, requests: object, context: Context) -> Message | bytes:
        """Answer a call with one response."""
        began_s = time.perf_counter()
        code, caller = _OK, None
        try:
            self._refuse_too_late(context)
            caller = self._gate.let_in(self._need, context)
            serialised = await self._front.arrivals.request(context)
            began_s = time.perf_counter()  # how fast a request comes is its caller's matter
            request = self._decoded(serialised)
            if self._audit is None:
                response: Message | bytes = await self._answer(request, context)
            else:
                response = await self._answered_on_record(self._audit, caller, request, context)
            return response
        except asyncio.CancelledError as error:
            code = _cancelled(context)
            _let_go(error)
            raise
        except Exception as error:
            told = self._told(error, context)
            code = told.code
            _let_go(error)
            await context.abort(told.code, told.message, told.trailing)
        finally:
            self._ended(code, time.perf_counter() - began_s, caller, context)
        raise AssertionError("abort raises")

    def _refuse_too_late(self, context: Context) -> None:
        """Raise an error where the answer would come after the call's deadline: nothing need be done for it then."""
        if self._admission is None:
            return
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= self._admission.wait_s:
            raise OverloadedError("the answer would come after the call's deadline", "Try again a little later.")

    async def _answered_on_record(
        self, audit: Audit, caller: Caller, request: Message, context: Context
    ) -> Message | bytes:
        """Answer a call that is recorded; once begun it is finished and its end recorded, whoever goes away."""

        async def answered() -> Message | bytes:
            async with self._recorded(audit, caller, request, context):
                response: Message | bytes = await self._answer(request, context)
                return response

        if len(self._front.kept) >= _MOST_KEPT:  # callers that have gone have left their places to others
            raise no_place()
        answering = asyncio.create_task(answered())
        self._front.kept.add(answering)
        answering.add_done_callback(self._front.kept.discard)
        return await asyncio.shield(answering)

    async def many(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message | bytes]:
        """Answer a call with a stream of responses."""
        code, caller = _OK, None
        try:
            caller = self._gate.let_in(self._need, context)
            held = self._gate.hold(self._need, context)
            if self._method.client_streaming:
                asked: Any = self._decoded_stream(requests, caller, held, context)
            else:
                asked = self._decoded(await self._front.arrivals.request(context))
            async with nullcontext() if self._audit is None else self._recorded(self._audit, caller, asked, context):
                async for response in self._answer(asked, context):
                    if not self._method.client_streaming:  # else its requests are what is looked at
                        held.check()
                    yield self._counted(response)
        except (asyncio.CancelledError, GeneratorExit) as error:
            code = _cancelled(context)
            _let_go(error)
            raise
        except Exception as error:
            told = self._told(error, context)
            code = told.code
            _let_go(error)
            await context.abort(told.code, told.message, told.trailing)
        finally:
            self._ended(code, None, caller, context)

    def _counted(self, response: Message | bytes | Outcome) -> Message | bytes:
        if not isinstance(response, Outcome):
            return response
        if self._metrics is not None:
            self._metrics.outcome(response.code)
        return response.response

    def _decoded(self, serialised: bytes) -> Message:
        try:
            return self._request_class.FromString(serialised)
        except DecodeError:
            what = f"the bytes are not a {self._method.input_type.full_name}"
            raise InvalidRequestError([Violation("", what)]) from None

    async def _decoded_stream(
        self, requests: AsyncIterator[bytes], caller: Caller, held: Held, context: Context
    ) -> AsyncIterator[Message]:
        """Yield a stream's requests, as long as its caller may; one over its rate is slowed down, not refused."""
        first = True
        async for serialised in requests:
            while not first:  # the call itself was counted for the first one
                try:
                    self._gate.take(caller, context)
                    break
                except RateLimitedError as error:
                    await asyncio.sleep(error.retry_after_s)
            first = False
            held.check()
            if self._metrics is not None:
                self._metrics.message()
            yield self._decoded(serialised)

    @asynccontextmanager
    async def _recorded(self, audit: Audit, caller: Caller, request: Message, context: Context) -> AsyncIterator[None]:
        """Record what is about to be done, before it is, and afterwards what became of it."""
        told = {
            "call_id": secrets.token_hex(8),
            "caller": caller.name,
            "method": self._name,
            "request_id": request_id(context),
        }
        await asyncio.to_thread(audit.write, **told, state="begun", about=audit.about(request))
        code = grpc.StatusCode.CANCELLED
        try:
            yield
            code = _OK
        except Exception as error:
            code = status_code(error)
            raise
        finally:
            try:  # also where the caller has gone away
                await asyncio.shield(asyncio.to_thread(audit.write, **told, state="ended", code=code.name))
            except AuditError as error:  # that it would be done is on record
                _log.error("audit_end_not_recorded", call_id=told["call_id"], reason=error.problem)

    def _told(self, error: Exception, context: Context) -> Failure:
        if self._metrics is not None and isinstance(error, RateLimitedError):
            self._metrics.over_rate()
        return failure(error, method=self._name, request_id=request_id(context) or secrets.token_hex(8))

    def _ended(self, code: grpc.StatusCode, seconds: float | None, caller: Caller | None, context: Context) -> None:
        if self._metrics is not None:
            self._metrics.ended(code, seconds)
        if self._front.log_calls:
            _log.info(
                "call",
                method=self._name,
                code=code.name,
                ms=None if seconds is None else round(seconds * 1000, 2),
                caller=caller.name if caller is not None else "",
                request_id=request_id(context),
            )


def _cancelled(context: Context) -> grpc.StatusCode:
    """Return why a call was cancelled: gRPC cancels those whose deadline has passed as well."""
    remaining_s = context.time_remaining()
    late = remaining_s is not None and remaining_s <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _let_go(error: BaseException | None) -> None:
    """Drop the frames of an error that was dealt with, and of those that led to it.

    gRPC ties them into a cycle. They hold the engine that was asked, which has to go when the last call ends: what
    stands in a cycle while engines are swapped is frozen then, and stays for ever (`Serving._swap_in`).
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _serialise(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def request_id(context: Context) -> str:
    """Return the caller's request id, if it sent one that may stand in a log."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value.isascii() and value.isprintable():
            return value[:_MOST_REQUEST_ID]
    return ""
