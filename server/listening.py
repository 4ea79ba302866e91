"""What listens: the gRPC server with its limits, its services behind their front, health and reflection."""

import asyncio
import contextlib
import errno
import math
import socket
from collections.abc import Mapping

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from kg.errors import KgrankError
from server.admission import Admission
from server.config import ServeSettings
from server.health import Health, health_handler
from server.rpc import Front, service_handler

_MOST_BYTES = 4 << 20
_SHARE_OF_HEALTH, _LEAST_OF_HEALTH = 8, 16  # anybody may make those calls: they may not take all places
_HANDSHAKE_MS = 10_000
_KEEPALIVE_MS = 60_000
_PING_APART_MS = 10_000  # gRPC's own 5 minutes would end a client's quiet stream for its pings
_KEEPALIVE_TIMEOUT_MS = 20_000
_ANSWERS_WITHIN_S = 5.0  # where nobody listens, a host of our own refuses at once


class PortTakenError(KgrankError):
    """The address can't be listened on."""


def address_of(host: str, port: int) -> str:
    """Return a host and a port as one text, as gRPC takes it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(
    who: str,
    host: str,
    port: int,
    error: Exception,
    *,
    where: str = "serve.host",
    another: str = "choose another port: --port 0 takes a free one",
) -> PortTakenError:
    """Return why somebody can't listen on an address, in one sentence, and what to do.

    Args:
        who: can't.
        host: of the address.
        port: of the address.
        error: what kept them.
        where: the setting that names the host.
        another: how another port is chosen.
    """
    problem = f"{who} can't listen on {address_of(host, port)}: {getattr(error, 'strerror', None) or error}"
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return PortTakenError(problem, f"Check {where}: the name of this machine, or one of its addresses.")
    if number == errno.EACCES:
        return PortTakenError(problem, f"This user may not have that port: let it, or {another}.")
    return PortTakenError(problem, f"Stop what listens there, or {another}.")


class Listening:
    """When a server listens, and where: at once, or, beside others on its port, as soon as it answers.

    The kernel gives every listener of a port its share of the new connections. One that is still loading would refuse
    calls that the others answer.

    Args:
        server: what listens.
        settings: where.
        secured: its side of TLS; None for none.
    """

    def __init__(
        self, server: grpc.aio.Server, settings: ServeSettings, secured: grpc.ServerCredentials | None
    ) -> None:
        self._server = server
        self._secured = secured
        self._host, self._port, self._shares = settings.host, settings.port, settings.reuse_port
        self._begun = False

    async def begin(self) -> int:
        """Listen, unless others do so there already; return the port.

        Raises:
            PortTakenError: it can't be shared, or not be had at all.
        """
        self._refuse_taken()
        if not await self._others_listen():
            await self.go_on()
        return self._port

    async def go_on(self) -> None:
        """Listen if that has been put off.

        Raises:
            PortTakenError: it can't be had any more.
        """
        if self._begun:
            return
        self._begun = True
        address = address_of(self._host, self._port)
        try:
            if self._secured is not None:
                self._port = self._server.add_secure_port(address, self._secured)
            else:
                self._port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise self._taken(error) from error
        await self._server.start()

    def _refuse_taken(self) -> None:
        # gRPC says why it can't listen in lines of its own log; a socket of ours says it in one sentence.
        try:
            family, _, _, _, place = socket.getaddrinfo(self._host, self._port)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if self._shares:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                probe.bind(place)
        except OSError as error:
            raise self._taken(error) from error

    def _taken(self, error: Exception) -> PortTakenError:
        return cannot_listen("the server", self._host, self._port, error)

    async def _others_listen(self) -> bool:
        if not self._shares or not self._port:
            return False
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


def make_server(
    settings: ServeSettings,
    servicers: Mapping[ServiceDescriptor, object],
    places: Mapping[ServiceDescriptor, Admission],
    front: Front,
    told: Health,
) -> grpc.aio.Server:
    """Return a gRPC server that listens nowhere yet.

    Args:
        settings: its limits.
        servicers: answer the calls of each service (see `server.rpc.service_handler`).
        places: those that calls of a service take.
        front: what a call passes first.
        told: the health of all.
    """
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_calls,
        options=[
            ("grpc.so_reuseport", int(settings.reuse_port)),  # else a taken port is an error, not shared
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.max_concurrent_streams", settings.max_streams),
            ("grpc.http.overload_protection", 0),  # clients that know the limit wait; with it they are refused
            # Who opens a connection and says nothing, or has gone without a word, does not keep it.
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # what ends a quiet connection; a minute by default
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # else the third ping of a quiet connection is not sent
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_APART_MS),  # clients look after theirs, too
            *_connection_age(settings.connection_age_s),
        ],
    )
    server.add_generic_rpc_handlers(
        tuple(service_handler(service, servicer, front, places.get(service)) for service, servicer in servicers.items())
    )
    of_health = max(_LEAST_OF_HEALTH, settings.max_calls // _SHARE_OF_HEALTH)
    server.add_generic_rpc_handlers((health_handler(told, of_health),))
    if _reflects(settings):
        names = [service.full_name for service in servicers]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return server


def _connection_age(age_s: float) -> list[tuple[str, int]]:
    """Return how old a connection gets: so that clients find other servers before this one has left."""
    return [("grpc.max_connection_age_ms", math.ceil(age_s * 1000))] if age_s else []


def _reflects(settings: ServeSettings) -> bool:
    """Return whether gRPC reflection is answered: to anybody, as it has no gate."""
    if settings.reflection is not None:
        return settings.reflection
    return not settings.production and not settings.access.required
