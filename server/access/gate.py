"""The gate: who calls, may they, and not too often. Every call of the contract passes it before any work."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol
from urllib.parse import unquote

import structlog

from kg.errors import ConfigError
from server.access import tokens
from server.access.config import AccessSettings
from server.access.limits import Rates
from server.access.roles import Need, Role
from server.access.tokens import TokenRecord
from server.access.web_tokens import WebCaller, WebTokens
from server.errors import DeniedError, RateLimitedError, UnauthenticatedError
from server.refusals import RefusalLog

AUTHORIZATION = "authorization"
_BEARER = "bearer "
_COMMON_NAME = "x509_common_name"
_OTHER_NAMES = ("x509_subject_alternative_name", "x509_subject", "x509_pem_cert")
_MOST_REMEMBERED = 10_000
_HELD_S = 1.0
_OF_NETWORK = -1 << 64

_log = structlog.get_logger(__name__)


class Context(Protocol):
    """What the gate needs of a call's `grpc.aio.ServicerContext`."""

    def invocation_metadata(self) -> Any:
        """Return what the caller sent beside the request, as pairs; may be None."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the connection's certificate says."""

    def peer(self) -> str:
        """Return the caller's address."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls: a name for logs and limits, roles, and a rate where it has one of its own."""

    name: str
    roles: frozenset[Role]
    calls_per_s: float | None = None


ANYBODY = Caller("", frozenset(Role))
"""Every caller, where none has to say who it is."""


class Held:
    """A stream that was let in, and may go on for as long as a new call would be let in too.

    Args:
        check: raises an error where it would not.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._checked_s = monotonic()

    def check(self) -> None:
        """Look at the caller again, a second after the last time at the earliest.

        Raises:
            UnauthenticatedError: its credentials are not good any more.
            DeniedError: it has lost the role.
        """
        now_s = monotonic()
        if now_s - self._checked_s >= _HELD_S:
            self._checked_s = now_s
            self._check()


_Remembered = OrderedDict[bytes, WebCaller]
"""Callers whose web tokens were good, by the tokens' hashes, the oldest first."""


class Gate:
    """Lets callers in. `let_in` and what `hold` returns belong to the event loop's thread.

    Args:
        settings: who may call, and how often.

    Raises:
        ConfigError: tokens or keys can't be read.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self._settings = settings
        self._rates = Rates(settings.calls_per_s, settings.burst_s)
        self._tokens: dict[str, TokenRecord] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._web_stamp = _stamp(settings.jwt.key_file)
        self._web = WebTokens(settings.jwt) if settings.jwt.key_file is not None else None
        self._web_callers = _Remembered()
        self._certificate_roles = frozenset(settings.certificate_roles)
        self._denials = RefusalLog(event="denied", level=logging.WARNING)
        self._open = not settings.required and not settings.calls_per_s
        if settings.required:
            self._read_tokens()
            if not self._tokens and self._web is None and not self._certificate_roles:
                _log.warning("no_caller_known", remedy="make a token: kgrank token create NAME --role read")

    def let_in(self, need: Need, context: Context) -> Caller:
        """Return who calls.

        Raises:
            UnauthenticatedError: the call has no credentials, or ones that aren't good.
            DeniedError: the caller lacks the role.
            RateLimitedError: the caller has called too often.
        """
        if self._open:
            return ANYBODY
        caller = self._caller(context) if self._settings.required else ANYBODY
        self.take(caller, context)
        self._refuse_without_role(need, caller)
        return caller

    def hold(self, need: Need, context: Context) -> Held:
        """Return the stream of a caller who was let in: its credentials may be revoked, or end, while it goes on."""

        def check() -> None:
            if self._settings.required:
                self._refuse_without_role(need, self._caller(context))

        return Held(check)

    def take(self, caller: Caller, context: Context) -> None:
        """Count one more call of a caller.

        Raises:
            RateLimitedError: it has called too often.
        """
        name = caller.name or f"peer {_address(context.peer())}"
        wait_s = self._rates.take(name, caller.calls_per_s)
        if wait_s:
            raise RateLimitedError(wait_s)

    def refresh(self) -> None:
        """Take up changed tokens and keys; what can't be read leaves the ones before in force."""
        if not self._settings.required:
            return
        try:
            self._read_tokens()
        except ConfigError as error:
            _log.error("tokens_not_read", reason=error.problem, remedy=error.remedy)
        stamp = _stamp(self._settings.jwt.key_file)
        if self._web is not None and stamp is not None and stamp != self._web_stamp:
            self._web_stamp = stamp
            try:
                # A check by the old keys that is under way remembers its result where nobody looks any more.
                self._web, self._web_callers = WebTokens(self._settings.jwt), _Remembered()
            except ConfigError as error:
                _log.error("web_token_keys_not_read", reason=error.problem, remedy=error.remedy)

    def _caller(self, context: Context) -> Caller:
        credential = _credential(context)
        if credential is not None:
            return self._of_token(credential)
        if self._certificate_roles:
            name = _name_of_certificate(context.auth_context())
            if name is not None:
                return Caller(f"certificate {_printable(name)}", self._certificate_roles)
        raise UnauthenticatedError("the call has no token", "Send `authorization: Bearer TOKEN`.")

    def _of_token(self, credential: str) -> Caller:
        record = tokens.check(self._tokens, credential)
        if record is not None:
            return Caller(record.name, frozenset(record.roles), record.calls_per_s)
        web = self._of_web_token(credential) if self._web is not None else None
        if web is not None:
            return Caller(f"jwt {_printable(web.name)}", web.roles)
        raise UnauthenticatedError("the token is not good", "It may have been revoked or have expired: get a new one.")

    def _of_web_token(self, credential: str) -> WebCaller | None:
        """Check a JSON Web Token; one that was good is good until it expires or the keys change."""
        remembered, web = self._web_callers, self._web  # in this order: `refresh` replaces them in the other
        assert web is not None  # for mypy
        name = sha256(credential.encode("utf-8", "replace")).digest()
        known = remembered.get(name)
        if known is not None and time() < known.expires_s:
            return known
        remembered.pop(name, None)
        checked = web.check(credential)
        if checked is not None:
            remembered[name] = checked
            if len(remembered) > _MOST_REMEMBERED:
                remembered.popitem(last=False)
        return checked

    def _refuse_without_role(self, need: Need, caller: Caller) -> None:
        if need.role not in caller.roles and Role.ADMIN not in caller.roles:
            if need.audited:
                self._denials.refused(caller=caller.name, role=need.role)
            raise DeniedError(f"this call needs the role {need.role}", "Ask an operator for a token that has it.")

    def _read_tokens(self) -> None:
        path = self._settings.tokens_file
        stamp = _stamp(path)
        if path is None or (stamp == self._stamp and stamp is not None):
            return
        records = {record.token_id: record for record in tokens.read(path)}
        if stamp is not None and path.stat().st_mode & 0o007:
            _log.warning("tokens_open_to_all", file=str(path), remedy="chmod 600 it")
        self._tokens, self._stamp = records, stamp


def _credential(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == AUTHORIZATION and isinstance(value, str):
            return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else ""
    return None


def _name_of_certificate(connection: Mapping[str, Iterable[bytes]]) -> str | None:
    """Return the common name of a connection's certificate, or what else tells it apart; None where it has none."""
    if _COMMON_NAME not in connection:  # gRPC has an empty one where the certificate has none
        return None
    names = (name for key in (_COMMON_NAME, *_OTHER_NAMES) for name in connection.get(key, ()) if name)
    return next(names, b"").decode(errors="replace")


def _printable(name: str) -> str:
    """Return a name that may stand in a log: as it is, or a hash of it."""
    if 0 < len(name) <= tokens.MAX_NAME * 2 and name.isascii() and name.isprintable():
        return name
    return sha256(name.encode("utf-8", "replace")).hexdigest()[:16]


def _address(peer: str) -> str:
    """Return a peer's address without its port, which is another one for each connection.

    Of an IPv6 address it is the network's: whoever has one has the 2^64 addresses of a /64 (RFC 4291, 2.5.4).
    """
    return _network(peer.rpartition(":")[0])


@lru_cache(maxsize=4096)
def _network(place: str) -> str:
    try:
        address = ip_address(unquote(place.partition(":")[2]).strip("[]"))
    except ValueError:
        return place
    if not isinstance(address, IPv6Address):
        return place
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    return f"ipv6:{IPv6Address(int(address) & _OF_NETWORK)}"


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes with a file's contents and with who may read it; None where it is missing."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
