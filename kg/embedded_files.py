"""The files that the embedded Neo4j's parent and child share: who holds the folder, where it listens, who uses it."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

OWNER_LOCK = "owner.lock"
"""Held exclusively by the child for its life: one Neo4j per folder."""

CLIENTS_LOCK = "clients.lock"
"""Held shared by every process that uses the graph; the child takes it exclusively before it leaves."""

STATE_FILE = "endpoint.json"
"""Where the running child listens, and its password; readable by its owner alone."""

LOG_FILE = "child.log"


@dataclass(frozen=True)
class Endpoint:
    """A running embedded Neo4j, as its state file describes it."""

    uri: str
    user: str
    password: str
    pid: int
    process_start: str
    started_at_ms: int
    stays: bool

    def __repr__(self) -> str:
        return f"Endpoint({self.uri}, pid={self.pid})"  # never the password


def read_endpoint(folder: Path) -> Endpoint | None:
    """Return the Neo4j that runs on a folder, or None; a state file left by a killed process counts as none."""
    try:
        raw = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        endpoint = Endpoint(**{field.name: raw[field.name] for field in fields(Endpoint)})
    except (OSError, ValueError, KeyError):
        return None
    # The kernel gives process ids out again: the start time tells whether it is still the same process.
    return endpoint if process_start_time(endpoint.pid) == endpoint.process_start else None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.rename(path)


def process_start_time(pid: int) -> str:
    """Return a token that tells this process from a later one of the same id; empty if there is no such process."""
    try:
        # Field 22 of /proc/PID/stat, after the command's closing parenthesis; a zombie (Z) has ended.
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return "" if after_name[0] == "Z" else after_name[19]
    except OSError:
        if Path("/proc/self").exists():
            return ""
    try:  # no /proc (macOS): only whether it lives
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[IO[str]]:
    """Mark the graph of a folder as used by this process; waits while a child is leaving."""
    with (folder / CLIENTS_LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def is_held(folder: Path) -> bool:
    """Return whether a child holds the folder: it is starting, running or leaving."""
    return _is_locked(folder / OWNER_LOCK)


def is_used(folder: Path) -> bool:
    """Return whether a process uses the graph of a folder."""
    return _is_locked(folder / CLIENTS_LOCK)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
