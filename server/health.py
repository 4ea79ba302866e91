"""gRPC's health service, which anybody may ask: so it has a few places of its own, and nobody waits for who asks.

The servicer of gRPC's own package writes to watchers under a lock that a change of status needs as well: one watcher
that does not read would hold up every change, a model's and the server's leaving among them.
"""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from kg.errors import KgrankError
from server.admission import Admission
from server.arrivals import Arrivals
from server.errors import InvalidRequestError, Violation, failure
from server.rpc import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """What is told of the health of each service. Its methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._status: dict[str, int] = {}
        self._left = False
        self._changed = asyncio.Event()

    def set(self, service: str, status: int) -> None:
        """Tell of a service, empty for the whole server, from now on; after `leave` nothing changes any more."""
        if not self._left:
            self._status[service] = status
            self._wake()

    def leave(self) -> None:
        """Tell of every service that calls may not come, for good."""
        self._left = True
        self._status = dict.fromkeys(self._status, NOT_SERVING)
        self._wake()

    def status(self, service: str) -> int | None:
        """Return what is told of a service; None: there is none of this name."""
        return self._status.get(service)

    @property
    def changed(self) -> asyncio.Event:
        """Set once anything changes after this was read."""
        return self._changed

    def _wake(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()


def health_handler(told: Health, places: int) -> grpc.GenericRpcHandler:
    """Return the handler of the health service.

    Args:
        told: what it tells.
        places: for so many calls without their request, the oldest of which is let go for the next; for so many checks,
            and for so many watchers, the next of which are refused.
    """
    arrivals = Arrivals(places)  # apart from those of other services, whose callers had to say who they are

    async def check(service: str, context: Context) -> None:
        status = told.status(service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        else:
            await context.write(_response(status))

    async def watch(service: str, context: Context) -> None:
        last: int | None = None
        while True:
            changed, status = told.changed, told.status(service)
            if status is None:
                status = _UNKNOWN
            if status != last:
                await context.write(_response(status))
            last = status
            await changed.wait()

    return grpc.method_handlers_generic_handler(
        health.SERVICE_NAME,
        {
            name: grpc.stream_stream_rpc_method_handler(_answering(name, answer, arrivals, Admission(places)))
            for name, answer in (("Check", check), ("Watch", watch))
        },
    )


def _answering(
    name: str, answer: Callable[[str, Context], Awaitable[None]], arrivals: Arrivals, admission: Admission
) -> Callable[[object, Context], Awaitable[None]]:
    """Return gRPC's handler of a method; a call has its place until its caller has taken the answer."""

    async def answered(requests: object, context: Context) -> None:
        try:
            service = _service(await arrivals.request(context))
            with admission.place():
                await answer(service, context)
        except KgrankError as error:
            told = failure(error, method=f"{health.SERVICE_NAME}.{name}", request_id="")
            await context.abort(told.code, told.message, told.trailing)

    return answered


def _service(serialised: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(serialised).service)
    except DecodeError:
        raise InvalidRequestError([Violation("", "the bytes are not a HealthCheckRequest")]) from None


def _response(status: int) -> bytes:
    return health_pb2.HealthCheckResponse(status=status).SerializeToString()
