"""The jars of the embedded Neo4j: named, versioned and hashed in a committed lock file, fetched once by jgo.

The lock has jgo's own format, without hosts. `python -m kg.embedded_jars VERSION` makes it anew for another version.
"""

import fcntl
import hashlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kg.errors import GraphError, JarFetchError, MissingExtraError

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

LOCK_FILE = Path(__file__).with_name("neo4j.lock.toml")
COORDINATES = "org.neo4j:neo4j"
LOCKED_BY = "kgrank-neo4j.lock"
_DOWNLOADS_AT_ONCE = 8


def locked_jars(told: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Return the jars of the locked Neo4j from the local Maven cache, fetching those that it lacks.

    Args:
        told: hears one line when a download begins.

    Raises:
        MissingExtraError: jgo is not installed.
        JarFetchError: a jar can't be fetched (no network, say).
        GraphError: a jar is not the one that the lock names.
    """
    try:
        from jgo.env import LockFile
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    locked = LockFile.load(LOCK_FILE).dependencies
    context = _context()
    artifacts = [
        context.project(jar.groupId, jar.artifactId)
        .at_version(jar.version)
        .artifact(jar.classifier or "", jar.packaging)
        for jar in locked
    ]
    with _alone_in(context.repo_cache):
        absent = [artifact for artifact in artifacts if not artifact.cached_path.is_file()]
        if absent:
            told(f"Fetching Neo4j: {len(absent)} of {len(artifacts)} jars are not in {context.repo_cache} yet")
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            return list(pool.map(_fetch, artifacts, [jar.sha256 for jar in locked]))


def absent_jars() -> tuple[int, int]:
    """Return how many jars of the locked Neo4j are not on this machine, and how many there are; fetch none."""
    from jgo.env import LockFile

    context = _context()
    cached = [
        context.project(jar.groupId, jar.artifactId)
        .at_version(jar.version)
        .artifact(jar.classifier or "", jar.packaging)
        .cached_path
        for jar in LockFile.load(LOCK_FILE).dependencies
    ]
    return sum(not path.is_file() for path in cached), len(cached)


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """Let one process at a time check and fetch: a jar that another one is still writing looks damaged."""
    with ExitStack() as held:
        # A cache that can't be written has all jars, or fetching says what is wrong.
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((cache / LOCKED_BY).open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError:
    """Return the error for a package of the graph extra that is not installed."""
    return MissingExtraError(
        f"the package {error.name!r} is not installed; the embedded Neo4j needs it",
        "Install it: pip install '.[graph]' in kgrank's clone, or set KGRANK_NEO4J_URI to use a Neo4j server.",
    )


def _context() -> "MavenContext":
    """Return jgo's context with the user's own cache and mirrors, from jgo's configuration file."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    return MavenContext(
        repo_cache=settings.repo_cache, remote_repos={**settings.repositories, "central": MAVEN_CENTRAL_URL}, timeout=30
    )


def _fetch(artifact: "Artifact", sha256: str) -> Path:
    path: Path = artifact.cached_path
    if path.is_file() and _sha256(path) == sha256:
        return path
    # A download that was cut short leaves half a jar under its final name: fetch it again, once.
    path.unlink(missing_ok=True)
    try:
        artifact.resolve()
    except Exception as error:  # requests' tree, RuntimeError for "not found", OSError for the disk
        path.unlink(missing_ok=True)
        raise JarFetchError(
            f"the embedded Neo4j's jar {path.name} can't be fetched into {path.parent}: {_short(error)}",
            "Its first start needs the network and 150 MB of disk; later ones do not. "
            "Or set KGRANK_NEO4J_URI to use a Neo4j server.",
        ) from error
    if _sha256(path) != sha256:
        path.unlink(missing_ok=True)
        raise GraphError(
            f"the jar {path.name} is not the one that {LOCK_FILE.name} names: its SHA-256 differs",
            "Something between here and the registry changes files; fetch from another network or mirror.",
        )
    return path


def _short(error: Exception) -> str:
    if type(error).__module__.partition(".")[0] == "requests":
        return "the registry can't be reached"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if "://" in str(error) else str(error)  # without the registry's address


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lock(version: str) -> None:
    """Resolve a version of Neo4j with everything it needs, and write the lock file."""
    import jgo
    from jgo.env import LockedDependency, LockFile

    def lock(artifact: "Artifact") -> LockedDependency:
        return LockedDependency(
            artifact.groupId,
            artifact.artifactId,
            artifact.version,
            classifier=artifact.classifier or None,
            sha256=_sha256(artifact.resolve()),
        )

    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        jars = list(pool.map(lock, jgo.resolve(f"{COORDINATES}:{version}")))
    jars.sort(key=lambda jar: (jar.groupId, jar.artifactId, jar.classifier or ""))
    LockFile(jars).save(LOCK_FILE)


if __name__ == "__main__":
    write_lock(sys.argv[1])
