"""The record of what callers did that can't be undone or that others feel: one JSON line each, on disk before the call.

A line names the caller, the call, and what it was about, but no person: user ids stand there as keyed hashes (HMAC with
a key of its own beside the file), so that whoever holds the key can ask whether a given user was erased, and nobody can
read ids out of it. Requests are recorded before they are checked: a fact about a user is refused, but it was sent.
"""

import hashlib
import hmac
import json
import math
import os
import secrets
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kg import schema
from kg.errors import ConfigError
from kgrank.v1 import user_service_pb2
from kgrank.v1.catalog_service_pb2 import FactNode
from server.errors import AuditError

_MOST_IDS = 20
_KEY_BYTES = 32
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_PERSONAL = "user_id"
_ERASE_USER = user_service_pb2.DESCRIPTOR.services_by_name["UserService"].methods_by_name["EraseUser"].full_name
_TOLD = {
    *("name", "product_ids", "rule_id", "action", "product_id", "brand", "category", "strength", "position"),
    *("model", "percent", "shadow", "relation"),
}
"""Fields of requests that stand in the record as they are, wherever they are: none of them is of a person."""


class Audit:
    """An append-only file. Its methods may be called from any thread, and wait for the disk.

    Args:
        path: the file; made, with its key, where it is missing.

    Raises:
        ConfigError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._key = _key(_key_file(path))
            self._file = _opened(path)
        except OSError as error:
            raise ConfigError(
                f"the audit log {path} can't be opened: {error.strerror}", "Check access.audit_file and its disk."
            ) from error
        self._path = path
        self._lock = threading.Lock()

    def write(self, *, call_id: str, caller: str, method: str, request_id: str, **more: Any) -> None:
        """Append a line.

        Raises:
            AuditError: it can't be written.
        """
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "call_id": call_id,
            "caller": caller,
            "method": method,
            "request_id": request_id,
            **more,
        }
        try:
            with self._lock:
                self._begin_anew_where_moved()
                self._append((json.dumps(line) + "\n").encode())
                os.fsync(self._file)
        except OSError as error:
            raise AuditError(
                "the audit log can't be written; nothing was done", "The server's disk may be full; try again later."
            ) from error

    def erasure_finished(self, user_id: str, code: grpc.StatusCode) -> None:
        """Append that the server has finished by itself what a call could not, and what that would have ended in.

        Raises:
            AuditError: it can't be written.
        """
        about = {"user": self.pseudonym(user_id)}
        told = {"call_id": secrets.token_hex(8), "caller": "", "method": _ERASE_USER, "request_id": ""}
        self.write(**told, state="finished", about=about, code=code.name)

    def about(self, request: Message) -> dict[str, Any]:
        """Return what a request is about, with no person's id in the clear."""
        told: dict[str, Any] = {}
        for field, value in request.ListFields():
            if field.name == _PERSONAL:
                told["user"] = self.pseudonym(value)
            elif isinstance(value, FactNode):
                told[field.name] = self._node(value)
            elif isinstance(value, Timestamp):
                told[field.name] = _moment(value)
            elif isinstance(value, Message):
                told |= self.about(value)
            elif field.is_repeated:
                told["count"] = len(value)
                if field.message_type is not None:
                    told[field.name] = [self.about(each) for each in value[:_MOST_IDS]]
                elif field.name in _TOLD:
                    told[field.name] = list(value[:_MOST_IDS])
            elif field.name in _TOLD:
                told[field.name] = _plain(value) if field.enum_type is None else _name(field.enum_type, value)
        return told

    def pseudonym(self, user_id: str) -> str:
        """Return the name under which a user stands in the record."""
        return _pseudonym(self._key, user_id)

    def _node(self, node: FactNode) -> dict[str, str]:
        """Return the end of a fact; whatever calls itself a user is one here."""
        if node.kind.strip().casefold().removesuffix("s") == schema.USER.kind:
            return {"kind": node.kind, "user": self.pseudonym(node.id)}
        return {"kind": node.kind, "id": node.id}

    def _begin_anew_where_moved(self) -> None:
        """Go on in a file under the path, where the one before was moved or removed."""
        try:
            if os.path.samestat(os.fstat(self._file), self._path.stat()):
                return
        except FileNotFoundError:
            pass
        before, self._file = self._file, _opened(self._path)
        os.close(before)

    def _append(self, line: bytes) -> None:
        """Write a line whole, and not in one with what a full disk has left of the one before."""
        left = memoryview(b"\n" + line if self._ends_within_a_line() else line)
        while left:
            left = left[os.write(self._file, left) :]

    def _ends_within_a_line(self) -> bool:
        """Return whether the last line was cut short, by this process or by another."""
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def close(self) -> None:
        """Close the file; what is written from now on is an error."""
        with self._lock:
            os.close(self._file)
            self._file = -1  # the number may soon be another file's


@dataclass(frozen=True)
class RecordedErasure:
    """A call that was to erase a user, or the server's own end of what a call could not finish.

    Args:
        at: when it ended, or else when it began; UTC, ISO 8601.
        caller: who called; empty where the server finished it.
        code: the gRPC status that it ended in; empty where its end is not on record.
        by_server: whether the server finished it by itself, after the call.
    """

    at: str
    caller: str
    code: str
    by_server: bool = False


def erasures(path: Path, user_id: str) -> list[RecordedErasure]:
    """Return what is on record of a user's erasure, in the order of its ends; nothing is made or changed.

    Raises:
        ConfigError: the log or its key can't be read.
    """
    found: dict[str, RecordedErasure] = {}
    try:
        user = _pseudonym(_key_file(path).read_bytes(), user_id)
        with path.open(encoding="utf-8", errors="replace") as lines:
            for text in lines:
                line = _line(text) if _ERASE_USER in text else {}
                call_id = line.get("call_id", "")
                if line.get("about") == {"user": user}:
                    by_server = line["state"] == "finished"
                    found[call_id] = RecordedErasure(line["at"], line["caller"], line.get("code", ""), by_server)
                elif call_id in found:
                    del found[call_id]  # others may have ended since it began
                    found[call_id] = RecordedErasure(line["at"], line["caller"], line["code"])
    except OSError as error:
        raise ConfigError(
            f"the audit log can't be searched: {error.filename}: {error.strerror}",
            "Ask on a server's host, with its KGRANK_HOME (or access.audit_file): log and key are there alone.",
        ) from error
    return list(found.values())


def _opened(path: Path) -> int:
    """Return a log that is open; O_APPEND: lines of several processes stand one after the other."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def _line(text: str) -> dict[str, Any]:
    """Return a line of the log; nothing where a full disk cut it short."""
    try:
        line: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return line


def _pseudonym(key: bytes, user_id: str) -> str:
    return hmac.new(key, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _key_file(path: Path) -> Path:
    return path.with_name(path.name + ".key")


def _name(kind: EnumDescriptor, number: int) -> str | int:
    """Return the name of an enum's value; of one that it does not have, the number that was sent."""
    known = kind.values_by_number.get(number)
    return number if known is None else known.name


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it: of what is no number, the name that protobuf's JSON gives it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _moment(at: Timestamp) -> str | int:
    """Return a moment as RFC 3339 has it; one beyond its years, the seconds that were sent."""
    try:
        return str(at.ToJsonString())
    except ValueError:
        return at.seconds


def _key(path: Path) -> bytes:
    """Return the key of a file, which is made where it is missing: whole, or not at all.

    Raises:
        ConfigError: what is there is no key.
    """
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # for its owner only
            file.write(secrets.token_hex(_KEY_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
            try:
                os.link(file.name, path)
            except FileExistsError:
                pass  # another process was quicker: its key is the one
            except OSError:  # a file system without links
                with suppress(FileExistsError), os.fdopen(os.open(path, _NEW_FILE, 0o600), "wb") as whole:
                    whole.write(Path(file.name).read_bytes())
    key = path.read_bytes()
    if len(key) < 2 * _KEY_BYTES:
        raise ConfigError(
            f"the key of the audit log, {path}, has {len(key)} bytes; it needs {2 * _KEY_BYTES}",
            "Put back a copy of it, or remove it: a new one is made, by which users named before are not found.",
        )
    return key
