"""Tokens of callers: random, shown once, and kept as salted hashes.

A token is `kgr_ID_SECRET`. The id finds its record; 256 random bits of secret need no slow hash, as nobody can try them
all, so a salted SHA-256 it is (NIST SP 800-63B, 5.1.2.2, asks for no more of look-up secrets with 112 bits or more).
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from kg.errors import ConfigError
from server.access.roles import Role

PREFIX = "kgr"
MAX_NAME = 64
NOT_OF_TOKENS = ("certificate ", "jwt ")
"""How the names of other callers begin (`server.access.gate`): a token must not pass for one of them."""

_SECRET_BYTES = 32
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is kept of a token: whose it is, what it may do, and the salted hash of its secret.

    Args:
        calls_per_s: calls a second; None: as the settings say.
        expires_ms: the first moment at which it is no longer good; None: until it is revoked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    token_id: str
    name: str
    roles: tuple[Role, ...]
    salt: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_ms: int
    expires_ms: int | None = None
    calls_per_s: Annotated[float, Field(ge=0, le=1e6)] | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of tokens."""

    version: Literal[1]
    tokens: tuple[TokenRecord, ...]


_KEPT = TypeAdapter(_Kept)


def create(
    path: Path, name: str, roles: Iterable[Role], *, expires_ms: int | None = None, calls_per_s: float | None = None
) -> tuple[TokenRecord, str]:
    """Make a token and keep its hash; return the record and the token, which is kept nowhere.

    Raises:
        ConfigError: the name can't be used, or the file can't be read.
    """
    if not name or len(name) > MAX_NAME or not name.isascii() or not name.isprintable():
        raise ConfigError(
            f"{name!r} can't name a caller", f"A name is 1 to {MAX_NAME} printable ASCII characters: shop-backend"
        )
    if name.startswith(NOT_OF_TOKENS):
        raise ConfigError(
            f"{name!r} can't name a token: so begin the names of callers with a certificate or a JSON Web Token",
            f"Give another name, such as {name.replace(' ', '-')}",
        )
    token_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(_SECRET_BYTES), secrets.token_hex(16)
    record = TokenRecord(
        token_id=token_id,
        name=name,
        roles=tuple(sorted(set(roles))),
        salt=salt,
        sha256=_hash(salt, secret),
        created_ms=_now_ms(),
        expires_ms=expires_ms,
        calls_per_s=calls_per_s,
    )
    with _locked(path):
        _write(path, [*read(path), record])
    return record, f"{PREFIX}_{token_id}_{secret}"


def revoke(path: Path, token_id: str) -> TokenRecord:
    """Forget a token; running servers refuse it within a second or two.

    Raises:
        ConfigError: there is none with this id, or the file can't be read.
    """
    with _locked(path):
        records = read(path)
        found = next((each for each in records if each.token_id == token_id), None)
        if found is None:
            raise ConfigError(f"there is no token {token_id!r} in {path}", "`kgrank token list` names them.")
        _write(path, [each for each in records if each is not found])
    return found


def read(path: Path) -> list[TokenRecord]:
    """Return the tokens that are kept in a file; none where it is missing.

    Raises:
        ConfigError: the file can't be read, or isn't one of ours.
    """
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"the tokens in {path} can't be read: {error.strerror}", "Check access.tokens_file and its permissions."
        ) from error
    try:
        return list(_KEPT.validate_json(contents).tokens)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise ConfigError(
            f"{path} is not a file of tokens of this version: {where}: {first['msg']}",
            "Restore it, or move it away and make new tokens.",
        ) from None


def check(records: dict[str, TokenRecord], token: str) -> TokenRecord | None:
    """Return the record of a token that is good now, None for any other; takes as long for one as for the other."""
    _, _, rest = token.partition("_")
    token_id, _, secret = rest.partition("_")
    record = records.get(token_id)
    salt, expected = (record.salt, record.sha256) if record is not None else ("", _NOBODY)
    same = hmac.compare_digest(_hash(salt, secret), expected)
    if record is None or not same or not token.startswith(PREFIX + "_"):
        return None
    if record.expires_ms is not None and _now_ms() >= record.expires_ms:
        return None
    return record


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode("utf-8", "replace")).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as file:
        owner = (path if path.exists() else path.parent).stat()
        if os.geteuid() == 0 and os.fstat(file.fileno()).st_uid != owner.st_uid:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)  # who owns the tokens is to change them, too
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, records: list[TokenRecord]) -> None:
    """Replace the file by one of the same owner and mode; a new one only its owner may read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _keep_owner(descriptor, path)
            json.dump(asdict(_Kept(1, tuple(records))), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _keep_owner(descriptor: int, path: Path) -> None:
    """Let the servers, which may be another user than whoever runs a command, go on reading what replaces a file.

    Raises:
        ConfigError: the file is another user's, and only root can give one away.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    if before.st_uid != os.geteuid() or before.st_mode & 0o070:
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except PermissionError as error:
            raise ConfigError(
                f"{path} is of user {before.st_uid} and group {before.st_gid}, and would not be any more",
                "Run the command as that user and in that group, or as root.",
            ) from error
    os.fchmod(descriptor, S_IMODE(before.st_mode))
