"""Metrics and probes over plain HTTP, on a port of their own: `/metrics`, `/livez` and `/readyz`.

Probes are here besides gRPC's health service because Kubernetes' own gRPC probe speaks no TLS.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from server.listening import cannot_listen
from server.watch.config import WatchSettings

_log = structlog.get_logger(__name__)

_IDLE_S = 10


class Health(Protocol):
    """What probes ask for; read from threads."""

    @property
    def alive(self) -> bool:
        """Whether the server need not be killed."""

    @property
    def ready(self) -> bool:
        """Whether calls may come."""


class Web:
    """Answers scrapes and probes, in threads of its own.

    Args:
        settings: the address.
        registry: what `/metrics` tells.
        health: what the probes are told.

    Raises:
        PortTakenError: the address can't be listened on.
    """

    def __init__(self, settings: WatchSettings, registry: CollectorRegistry, health: "Health") -> None:
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                told: Iterable[bytes] = metrics(environ, start_response)
                return told
            good = {"/livez": health.alive, "/readyz": health.ready}.get(path)
            status = {None: "404 Not Found", True: "200 OK", False: "503 Service Unavailable"}[good]
            start_response(status, [("Content-Type", "text/plain")])
            return [status.encode() + b"\n"]

        host, port = settings.metrics_host, settings.metrics_port or 0
        try:
            self._server = make_server(host, port, app, _Server, handler_class=_Handler)
        except OSError as error:
            where = "serve.watch.metrics_host"
            another = "set serve.watch.metrics_port to another, or to 0 for a free one"
            raise cannot_listen("the metrics", host, port, error, where=where, another=another) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        _log.info("metrics_listen", host=settings.metrics_host, port=self.port)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingWSGIServer):
    def __init__(self, place: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, handler)


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_S  # a client that says nothing does not keep its thread

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no event."""
