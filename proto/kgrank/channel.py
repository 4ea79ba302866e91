"""A channel to the service: in the clear or over TLS, with the caller's token where it has one.

By default everything comes from the environment, so that no secret stands in a command line:

    KGRANK_TOKEN, KGRANK_TOKEN_FILE           the caller's token, or a file that holds it
    KGRANK_CA_FILE                            TLS, with a server that these PEM certificates vouch for
    KGRANK_TLS=true                           TLS, with a server that the machine's own certificates vouch for
    KGRANK_CERTIFICATE_FILE, KGRANK_KEY_FILE  the caller's own certificate, for mutual TLS
"""

import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc

_SERVICE_CONFIG = {
    # Where a name stands for several servers (`dns:///kgrank-servers:50051`), calls go to one after the other.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "kgrank.v1.RankingService"},
                {"service": "kgrank.v1.EventService"},
                *(
                    {"service": f"kgrank.v1.{service}", "method": method}
                    for service, methods in {
                        "CatalogService": "UpsertProducts GetProduct ListProducts UpsertFacts ListFacts",
                        "UserService": "GetUserProfile ExportUser",
                        "RuleService": "UpsertRule ListRules",
                        "ModelService": "ListModels GetTraffic",
                    }.items()
                    for method in methods.split()
                ),
            ],
            # Not what deletes: done twice, it says that there was nothing. An event carries an id, so that a second
            # delivery changes nothing; see `Client.write_events`.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # CANCELLED, where the caller did not cancel: it arrived in the instant in which the server left.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # Where most calls fail, they are not sent four times over; a server that leaves with all its calls is no such case.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
}

_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("", "0", "false", "f", "no", "n", "off")
"""The words that the server's own settings take."""

_LONGEST_ANSWER_BYTES = 64 << 20
"""gRPC's own 4 MiB is less than a page of large products, or the reasons of some thousand candidates."""

_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 20_000, 5_000
"""A server whose host is gone says nothing: a call would wait for it until TCP gives up."""

_RECONNECT_MS = 100
"""How soon after a failure a channel connects again at first: gRPC's own second is longer than a call's attempts."""


@dataclass(frozen=True)
class Credentials:
    """How a caller shows who it is, and how it knows the server.

    Args:
        token: the caller's token; it never goes out in the clear but to this very machine.
        tls: whether to encrypt; so does any of the certificates below.
        ca: PEM certificates that vouch for the server; None: the machine's own.
        certificate: the caller's own PEM certificate, for mutual TLS.
        key: its PEM key.
        token_file: holds the token, which is read again when the file changes.
    """

    token: str = ""
    tls: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token_file: Path | None = None

    def __repr__(self) -> str:
        return f"Credentials(token={'(set, not shown)' if self.token else None}, tls={self.encrypted})"

    @property
    def encrypted(self) -> bool:
        """Whether these need TLS."""
        return self.tls or self.ca is not None or self.certificate is not None

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Credentials":
        """Return the credentials that the environment names.

        Raises:
            OSError: a file that it names can't be read.
            ValueError: `KGRANK_TLS` is no word for yes or no.
        """
        tls = environment.get("KGRANK_TLS", "")
        if tls.lower() not in (*_YES, *_NO):
            raise ValueError(f"KGRANK_TLS is {tls!r}: set it to true or false")
        token, token_file = environment.get("KGRANK_TOKEN", ""), None
        if not token and environment.get("KGRANK_TOKEN_FILE"):
            token_file = Path(environment["KGRANK_TOKEN_FILE"])
            token = _token_of(token_file)

        def contents(name: str) -> bytes | None:
            return Path(environment[name]).read_bytes() if environment.get(name) else None

        return cls(
            token=token,
            tls=tls.lower() in _YES,
            ca=contents("KGRANK_CA_FILE"),
            certificate=contents("KGRANK_CERTIFICATE_FILE"),
            key=contents("KGRANK_KEY_FILE"),
            token_file=token_file,
        )


def _token_of(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


def open_channel(target: str, credentials: Credentials) -> grpc.Channel:
    """Return a channel that sends the caller's token with every call, and tries again what may be.

    Raises:
        ValueError: a token would go to another machine in the clear.
    """
    options = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_receive_message_length", _LONGEST_ANSWER_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]
    if credentials.encrypted:
        secure = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
        channel = grpc.secure_channel(target, secure, options=options)
    elif credentials.token and not _is_this_machine(target):
        raise ValueError(f"the token would go to {target} in the clear: set KGRANK_CA_FILE or KGRANK_TLS=true")
    else:
        if _is_this_machine(target):  # else the environment's HTTP proxy would get it all, the token with it
            options.append(("grpc.enable_http_proxy", 0))
        channel = grpc.insecure_channel(target, options=options)
    return grpc.intercept_channel(channel, _Bearer(credentials)) if credentials.token else channel


def _is_this_machine(target: str) -> bool:
    host = target.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return target.startswith("unix:")


class _Details(NamedTuple):
    """What gRPC takes for `ClientCallDetails`."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds `authorization: Bearer TOKEN` to every call."""

    def __init__(self, credentials: Credentials) -> None:
        self._token, self._file = credentials.token, credentials.token_file
        self._stamp = self._stamp_now()

    def _stamp_now(self) -> tuple[int, int] | None:
        """Return what changes with the token's file; None where there is none."""
        try:
            found = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_ino)

    def _current(self) -> str:
        """Return the token; the one before where its file can't be read."""
        stamp = self._stamp_now()
        if self._file is not None and stamp is not None and stamp != self._stamp:
            with suppress(OSError, ValueError):
                self._token, self._stamp = _token_of(self._file) or self._token, stamp
        return self._token

    def _sent(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._current()}")]
        told = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )
        return continuation(told, request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Send a call."""
        return self._sent(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Send a call that is answered by a stream."""
        return self._sent(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Send a stream that is answered once."""
        return self._sent(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Send a stream that is answered by a stream."""
        return self._sent(continuation, client_call_details, request_iterator)
