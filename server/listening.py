"""What listens: the gRPC server with its limits, its services behind their front, health and reflection."""

import math
from collections.abc import Mapping

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kg.errors import KgrankError
from server.admission import Admission
from server.config import ServeSettings
from server.rpc import Front, service_handler

_MOST_BYTES = 4 << 20
_HANDSHAKE_MS = 10_000
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000


class PortTakenError(KgrankError):
    """The address can't be listened on."""


def make_server(
    settings: ServeSettings,
    servicers: Mapping[ServiceDescriptor, object],
    places: Mapping[ServiceDescriptor, Admission],
    front: Front,
    told: health.aio.HealthServicer,
) -> grpc.aio.Server:
    """Return a gRPC server that listens nowhere yet.

    Args:
        settings: its limits.
        servicers: answer the calls of each service (see `server.rpc.service_handler`).
        places: those that calls of a service take.
        front: what a call passes first.
        told: answers for the health of all.
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
            *_connection_age(settings.connection_age_s),
        ],
    )
    server.add_generic_rpc_handlers(
        tuple(service_handler(service, servicer, front, places.get(service)) for service, servicer in servicers.items())
    )
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
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
