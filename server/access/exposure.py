"""Where a server may listen: without a certificate on loopback only, unless it is told otherwise in so many words."""

import ipaddress
import socket
from typing import TYPE_CHECKING

from kg.errors import ConfigError

if TYPE_CHECKING:
    from server.config import ServeSettings


def refuse_exposure(settings: "ServeSettings") -> None:
    """Check that nobody can listen in or call in who should not.

    Raises:
        ConfigError: the settings would let them.
    """
    encrypted = settings.tls.certificate_file is not None
    if not encrypted and not settings.insecure_anywhere and not _is_loopback(settings.host):
        raise ConfigError(
            f"the server would listen on {settings.host} without TLS",
            "Set serve.tls.certificate_file and key_file, or serve.host = '127.0.0.1'. Where something in front of it "
            "encrypts, or the network is yours alone, say so: serve.insecure_anywhere = true",
        )
    if settings.access.certificate_roles and settings.tls.client_ca_file is None:
        raise ConfigError(
            "serve.access.certificate_roles is set without serve.tls.client_ca_file",
            "Name the certificates that callers' certificates must be signed by.",
        )
    credentials = {
        "serve.access.certificate_roles": bool(settings.access.certificate_roles),
        "serve.access.jwt.key_file": settings.access.jwt.key_file is not None,
    }
    for name, given in credentials.items():
        if given and not settings.access.required:
            raise ConfigError(
                f"{name} is set without serve.access.required: every caller would have every role",
                f"Set serve.access.required = true, or leave {name} out.",
            )
    if not settings.production:
        return
    if not encrypted and not settings.insecure_anywhere:
        raise ConfigError(
            "serve.production is set without TLS", "Set serve.tls.certificate_file and serve.tls.key_file."
        )
    if not settings.access.required:
        raise ConfigError(
            "serve.production is set, but anybody may call", "Set serve.access.required = true; see `kgrank token`."
        )


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine and nothing else; one that can't be resolved can't be listened on."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return True
    return all(ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback for _, _, _, _, place in found)
