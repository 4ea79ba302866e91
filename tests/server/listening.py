"""A server of gRPC with its limits, health and front, and of services what a test gives it: no models, no graph."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from server.config import ServeSettings
from server.health import Health
from server.listening import make_server
from server.rpc import Front


@asynccontextmanager
async def listening(
    servicers: Mapping[ServiceDescriptor, object],
    settings: ServeSettings | None = None,
    front: Front | None = None,
    told: Health | None = None,
) -> AsyncIterator[int]:
    """Run a server on a free port until the block ends; yield the port."""
    server = make_server(settings or ServeSettings(), servicers, {}, front or Front(), told or Health())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def channel(port: int) -> grpc.aio.Channel:
    """Return a channel with a connection of its own: those of one process share theirs otherwise."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
