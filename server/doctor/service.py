"""May the server listen where it should, with what it should, and does it answer?"""

import errno
import socket
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from server.config import Settings

_SOON_S = 14 * 86_400
_DAY_S = 86_400
_ANSWER_S = 3
_OTHER_PORT = "Stop it, or set serve.port to another."


def check_service(settings: "Settings") -> Iterator[Finding]:
    """Check address, certificate and keys, and ask whoever listens there."""
    from server.access.exposure import refuse_exposure
    from server.access.gate import Gate
    from server.access.tls import credentials, expires_s

    serve = settings.serve
    refuse_exposure(serve)
    credentials(serve.tls)
    if serve.tls.certificate_file is not None:
        left_s = expires_s(serve.tls.certificate_file) - time.time()
        ends = f"the certificate {serve.tls.certificate_file} ends in {left_s / _DAY_S:,.0f} days"
        if left_s <= 0:
            yield problem("tls", f"the certificate {serve.tls.certificate_file} has ended", "Renew it.")
        else:
            yield (
                warning("tls", ends, "Renew it; the server takes it up by itself.")
                if left_s < _SOON_S
                else ok("tls", ends)
            )
    if serve.access.required:
        Gate(serve.access.model_copy(update={"tokens_file": settings.tokens_file}))
        yield ok("access", "callers have to say who they are")
    elif serve.insecure_anywhere:
        yield warning("access", "anybody who reaches the port may call", "Set serve.access.required = true.")
    yield _files(serve.max_calls)
    yield _port(settings)


def _files(max_calls: int) -> Finding:
    """Compare what a server may open with what it opens where every call has a connection of its own."""
    from server.open_files import most_files, needed_files

    most, needed = most_files(), needed_files(max_calls)
    if most is None or most >= needed:
        return ok("files", "a server may open as many files as its calls need")
    return warning(
        "files",
        f"a server of this user may open {most:,} files; with serve.max_calls = {max_calls:,}, each call over a "
        f"connection of its own, it opens {needed:,}: beyond its limit connections and probes wait unanswered",
        f"Raise the hard limit (`ulimit -Hn {needed}`, LimitNOFILE= of systemd), or lower serve.max_calls.",
    )


def _port(settings: "Settings") -> Finding:
    host, port = settings.serve.host, settings.serve.port
    if port == 0:
        return ok("port", "any free port is taken")
    from server.listening import address_of, cannot_listen

    try:
        family, _, _, _, place = socket.getaddrinfo(host, port)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _asked(settings, error)
        refused = cannot_listen("a server", host, port, error)
        return problem("port", refused.problem, refused.remedy)
    return ok("port", f"{address_of(host, port)} is free: no server runs there")


def _asked(settings: "Settings", taken: OSError) -> Finding:
    """Ask whoever listens whether it is a server of ours."""
    import grpc
    from grpc_health.v1 import health_pb2

    from server.listening import address_of

    where = address_of(settings.serve.host, settings.serve.port)
    if settings.serve.tls.certificate_file is not None:
        return _shown(settings, where)
    try:
        with grpc.insecure_channel(where, [("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            status = check(health_pb2.HealthCheckRequest(service="kgrank.v1.RankingService"), timeout=_ANSWER_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return _silent(where)
        return problem("port", f"{where} is taken by something else: {taken.strerror}", _OTHER_PORT)
    if status.status != health_pb2.HealthCheckResponse.SERVING:
        remedy = "Its log says why: it has no model, waits for the shop's rules or for the graph, or leaves."
        return warning("port", f"a server at {where} answers, and takes no ranking calls now", remedy)
    return ok("port", f"a server at {where} answers and serves")


def _silent(where: str) -> Finding:
    remedy = f"A server of yours that stands still has to be started again; its log says more. Else: {_OTHER_PORT}"
    return problem("port", f"what listens on {where} has said nothing for {_ANSWER_S} seconds", remedy)


def _shown(settings: "Settings", where: str) -> Finding:
    """Look at the certificate of whoever listens: with TLS, only callers who are known may ask a server more."""
    from cryptography import x509

    certificate = settings.serve.tls.certificate_file
    assert certificate is not None  # for mypy: it was asked for
    try:
        address = (settings.serve.host, settings.serve.port)
        shown = x509.load_pem_x509_certificate(ssl.get_server_certificate(address, timeout=_ANSWER_S).encode())
    except TimeoutError:
        return _silent(where)
    except (OSError, ValueError):
        return problem("port", f"{where} is taken by something that speaks no TLS", _OTHER_PORT)
    if shown == x509.load_pem_x509_certificate(certificate.read_bytes()):
        return ok("port", f"a server at {where} shows the certificate {certificate}")
    remedy = "It is your server if the certificate was just renewed; else stop it, or set serve.port to another."
    return warning("port", f"{where} is taken by something with another certificate", remedy)
