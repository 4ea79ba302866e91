"""Encryption: the server's certificate, and the callers' where mutual TLS is asked for, followed as files change."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from kg.errors import ConfigError
from server.access.config import TlsSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Secured:
    """What a server encrypts with, and when the certificate of its next handshake ends (`expires_s`)."""

    credentials: grpc.ServerCredentials
    ends_s: Callable[[], float]


def credentials(settings: TlsSettings) -> Secured | None:
    """Return credentials that take up new files at the next handshake; None where there is no certificate.

    A renewed certificate that can't be used is logged, and the one before stays.

    Raises:
        ConfigError: a file is missing, can't be read, or does not fit the others.
    """
    if settings.certificate_file is None:
        if settings.key_file is not None or settings.client_ca_file is not None:
            raise ConfigError("serve.tls has no certificate_file", "Set certificate_file and key_file, or neither.")
        return None
    if settings.key_file is None:
        raise ConfigError("serve.tls.certificate_file is set but key_file is not", "Set the certificate's key.")
    files = _Files(settings.certificate_file, settings.key_file, settings.client_ca_file)
    made = grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.current,  # type: ignore[arg-type]  # None is documented as "no change"; the stubs don't know
        require_client_authentication=settings.client_ca_file is not None,
    )
    return Secured(made, files.ends_s)


class _Files:
    """The files of a certificate; `current` is asked at each handshake, by threads of gRPC's own."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = threading.Lock()
        self._stamp = self._stamps()
        self._pem = b""  # of the certificate that was read last
        self._new: grpc.ServerCertificateConfiguration | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return what the files say now.

        Raises:
            ConfigError: they can't be used.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate, self._key, password="")  # never ask a terminal
            pem = self._certificate.read_bytes()
            pair = (self._key.read_bytes(), pem)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"the certificate {self._certificate} with its key {self._key} can't be used: {_reason(error)}",
                "Give PEM files that belong together, the key without a password, readable by the server.",
            ) from error
        ca = None if self._client_ca is None else _authorities(self._client_ca)
        made = grpc.ssl_server_certificate_configuration([pair], ca)
        self._pem = pem
        return made

    def current(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the files' new contents, None while they are the same."""
        with self._lock:
            self._look()
            made, self._new = self._new, None
            return made

    def ends_s(self) -> float:
        """Return when the certificate of the next handshake ends: the one before, where a new one can't be used.

        Raises:
            ConfigError: that can't be read out of it.
        """
        with self._lock:
            self._look()
            return _ends_s(self._pem, self._certificate)

    def _look(self) -> None:
        """Read the files if they have changed, and they fit."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        try:
            self._new = self.read()
        except ConfigError as error:
            if stamp is not None:
                self._stamp = stamp
                _log.error("certificate_not_renewed", reason=error.problem, remedy=error.remedy)
        else:
            self._stamp = stamp
            _log.info("certificate_renewed")

    def _stamps(self) -> tuple[tuple[int, int, int], ...] | None:
        """Return what changes with the files' contents and with who may read them.

        None while one is missing, as it may be during a change.
        """
        files = [self._certificate, self._key, *([] if self._client_ca is None else [self._client_ca])]
        try:
            stats = [path.stat() for path in files]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats)


def _authorities(path: Path) -> bytes:
    """Return the certificates that callers' must be signed by, as PEM.

    Raises:
        ConfigError: they can't be used.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(path)
        if not context.cert_store_stats()["x509"]:
            raise ValueError("no certificate")  # a list of revoked ones alone, say
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the certificates of serve.tls.client_ca_file {path} can't be used: {_reason(error)}",
            "Give a PEM file of what callers' certificates are signed by, readable by the server.",
        ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)


def expires_s(certificate: Path) -> float:
    """Return when a PEM certificate ends, in seconds since the epoch.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return _ends_s(certificate.read_bytes(), certificate)
    except OSError as error:
        raise ConfigError(f"the certificate {certificate} can't be read", "Give a PEM certificate.") from error


def _ends_s(pem: bytes, certificate: Path) -> float:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError as error:
        raise ConfigError(f"the certificate {certificate} can't be read", "Give a PEM certificate.") from error
