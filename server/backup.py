"""A backup of everything under home that can't be made again, and back: graph, journals, artifacts, snapshots.

    DIR/manifest.json           what is in it, and the digest of every file
    DIR/graph/                  the graph at one commit (`kg.backup`)
    DIR/home/                   journals, snapshots, artifacts, encoders, hashed tokens

Servers go on meanwhile; what would be written to the graph waits. The journals are copied after the graph, and before
it goes on, so that they have at least what the graph lacks: once restored, the drain gives it the rest.
"""

import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kg import backup as graph_backup
from kg.commits import MARGIN
from kg.erasure import Erasure, erase_again, erasures_since, user_key
from kg.errors import BackupError, GraphError, SnapshotError
from kg.progress import SILENT, Progress
from kg.redaction import redact_all
from kg.snapshot import Snapshot
from server.drain import tell_of_trimmed
from server.journal import Journal, locked
from server.journal_file import COMMIT, JournalFile
from server.journal_merge import take_in
from server.remembered import forget, keep, recall, stopped

if TYPE_CHECKING:
    from kg.store import Graph

MANIFEST = "manifest.json"
FORMAT = 2

_READ = (1, FORMAT)
"""1 had no values but those of JSON."""
_SNAPSHOTS = "snapshots"
_COPIES = 3
_FOLDERS = (_SNAPSHOTS, "artifacts", "encoders")
_FILES = ("tokens.json",)
_OF_THE_DISK = "lost+found"


@dataclass(frozen=True)
class BackupManifest:
    """What a backup says of itself; `files` has the digest of each."""

    format: int
    kgrank: str
    taken_at_ms: int
    graph: dict[str, int]
    journals: list[str]
    files: dict[str, str]


def backup(home: Path, graph: "Graph", folder: Path, progress: Progress = SILENT) -> BackupManifest:
    """Take a backup into a new folder, which only its owner can read; it has its name once it is whole.

    Raises:
        BackupError: the folder is there already, or can't be written, or the graph has a value that can't.
        GraphError: the store failed.
    """
    if folder.exists():
        raise BackupError(f"{folder} is there already", "Choose a new folder for each backup.")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)  # everything about everybody is in it
        (partial / "graph").mkdir()
        (partial / "home").mkdir()
        journals: list[str] = []

        def copy_journals() -> None:
            journals.extend(_copy_journal(path, partial / "home") for path in sorted(home.glob("journal*.db")))

        counts = graph_backup.dump(graph, partial / "graph", progress, copy_journals)
        for name in _FOLDERS:
            if (home / name).is_dir():
                copy = _copy_snapshot if name == _SNAPSHOTS else _copy_folder
                _copy_folders(home / name, partial / "home" / name, copy)
        for name in _FILES:
            if (home / name).is_file():
                shutil.copy2(home / name, partial / "home" / name)
        manifest = BackupManifest(
            FORMAT, version("kgrank"), time.time_ns() // 1_000_000, counts, journals, dict(_digests(partial))
        )
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2), encoding="utf-8")
        partial.rename(folder)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(
            f"backup {folder} can't be written: {error}", "Free space, or choose another disk."
        ) from error
    return manifest


def _copy_folders(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> None:
    """Copy what a folder of snapshots, artifacts or encoders has, its folders by `copy`."""
    target.mkdir()
    for path in sorted(path for path in source.iterdir() if not path.name.startswith(".")):
        (copy if path.is_dir() else shutil.copy2)(path, target / path.name)


def _copy_folder(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*"))


def _copy_snapshot(folder: Path, target: Path) -> None:
    """Copy a snapshot, and again where an erasure rewrote it meanwhile: that is a mixture of old files and new ones.

    What can't be opened after that was damaged before, and is copied as it is.
    """
    for _ in range(_COPIES - 1):
        with suppress(SnapshotError, shutil.Error, FileNotFoundError):
            _copy_folder(folder, target)
            Snapshot.open(target)
            return
        shutil.rmtree(target, ignore_errors=True)
    _copy_folder(folder, target)


def read_backup(folder: Path) -> BackupManifest:
    """Return what a backup says of itself, once every file of it is as it was written.

    Raises:
        BackupError: it is no backup, of another version, or damaged.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if raw["format"] not in _READ:
            raise BackupError(
                f"backup {folder} has format {raw['format']}; this kgrank reads up to {FORMAT}", "Use its kgrank."
            )
        manifest = BackupManifest(**raw)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackupError(f"{folder} is no backup: {error}", "Name a folder that `kgrank backup` wrote.") from error
    found = dict(_digests(folder))
    wrong = sorted(name for name, digest in manifest.files.items() if found.get(name) != digest)
    if wrong:
        raise BackupError(f"backup {folder} is damaged: {wrong[0]} is not what was written", "Use another backup.")
    return manifest


def restore(
    home: Path,
    graph: "Graph",
    folder: Path,
    *,
    replace: bool,
    graph_of_others: bool = False,
    drop_newer: bool = False,
    progress: Progress = SILENT,
) -> BackupManifest:
    """Put a backup back; no server may run on this home.

    What was written since the backup, and the journals of this home still have, stays in them: the graph is given it
    by the next server. Users who were erased since are not brought back, as far as this home or this graph remembers
    them; nor are tokens that were revoked since: this home's tokens stay, if it has any. One that was stopped may be
    run again from the same home.

    Args:
        home: where journals and artifacts go.
        graph: where the graph goes.
        folder: the backup.
        replace: put the backup in place of what is there; without it, anything there is an error.
        graph_of_others: replace also a graph that no journal of this home has written to, and others have.
        drop_newer: go back to the moment of the backup: what the journals have beyond it is dropped.
        progress: advances by one for each node and relationship.

    Raises:
        BackupError: the backup is damaged, or something is there already and `replace` is not set, or the graph is one
            of others, or what it remembers can't be written down.
        JournalError: a server runs on this home.
        SnapshotError: all is restored, but who was erased can't be taken out of a snapshot.
        GraphError: the store failed.
        DataError: the graph's part of the backup can't be read.
    """
    manifest = read_backup(folder)
    there = [name for name in (*manifest.journals, *_FOLDERS) if (home / name).exists()]
    if there and not replace:
        raise BackupError(f"{home / there[0]} is there already", "Restore to an empty home, or replace: --replace")
    remembered = recall(home).merged(erasures_since(graph, 0), graph.last_commit)
    journals: set[str] = set()
    with ExitStack() as stack:
        # Each journal is held to the end, so that no server runs or starts here meanwhile.
        paths = {*home.glob("journal*.db"), home / "journal.db", *(home / name for name in manifest.journals)}
        locks = {path: stack.enter_context(locked(path)) for path in sorted(paths)}
        for path in filter(Path.exists, locks):
            journal = JournalFile(path)
            journals.add(journal.name)
            remembered = remembered.merged(journal.erasures(), journal.noted(COMMIT))
            if journal.pending_erasures():
                raise BackupError(
                    "the erasure of a user is not finished yet", "Start a server here, and let it finish."
                )
        if replace:
            if not (graph_of_others or graph_backup.half_restored(graph)):
                _refuse_graph_of_others(graph, journals)
            graph_backup.verify(folder / "graph")
        else:
            graph_backup.refuse_filled(graph)
        was_stopped = stopped(home)
        keep(home, remembered)

        def rest() -> None:
            # No number is given twice: snapshots and other servers' journals tell before and after by it.
            graph.advance_commits(remembered.reached, MARGIN)
            known = {each.user_key: each.commit for each in erasures_since(graph, 0)}
            erase_again(graph, [each for key, each in remembered.erasures.items() if known.get(key, 0) < each.commit])
            if drop_newer:
                for old in home.glob("journal*.db*"):
                    old.unlink()
            _replace_files(home, folder / "home")
            for path, lock in locks.items():
                if path.exists() or path.name == "journal.db":
                    _settle(path, lock, graph, remembered.erasures.values())

        try:
            if replace:
                graph_backup.clear(graph)
            graph_backup.restore(graph, folder / "graph", progress, rest)
        except BaseException:  # an interrupt, too
            if not (replace or was_stopped):
                with suppress(GraphError):
                    graph_backup.refuse_filled(graph)
                    forget(home)  # nothing has changed
            raise
        forget(home)
        redact_all(home / _SNAPSHOTS, erasures_since(graph, 0))
    return manifest


def _settle(path: Path, lock: IO[str], graph: "Graph", erasures: Collection[Erasure]) -> None:
    """Let a restored journal give the graph everything once more, under a name that the graph does not know."""
    journal = Journal(path, lock=lock)
    try:
        tell_of_trimmed(journal, graph)
        journal.begin_anew()
        graph.write("MERGE (j:Journal {name: $name}) ON CREATE SET j.offset = 0", name=journal.name)  # as this home's
        at_ms = {each.user_key: each.at_ms for each in erasures}
        for user_id in journal.users():
            if (key := user_key(user_id)) in at_ms:
                journal.erase(user_id, at_ms[key]).result()
        for erasure in erasures:
            journal.finish_erasure(erasure)
    finally:
        journal.close()


def _replace_files(home: Path, kept: Path) -> None:
    """Put the backup's files in place; a journal that is there takes in the events that it has not got."""
    home.mkdir(parents=True, exist_ok=True)
    for path in sorted(kept.iterdir()):
        target = home / path.name
        if path.is_dir():
            _replace_folder(target, path)
        elif path.suffix == ".db" and target.exists():
            arrived = home / f".restored-{path.name}"
            _put(path, arrived)
            take_in(target, arrived)
        elif path.name not in _FILES or not target.exists():
            _put(path, target)


def _put(path: Path, target: Path) -> None:
    """Put a file in place; of a journal that was there no log stays, which SQLite would read into this one."""
    for suffix in ("-wal", "-shm") if path.suffix == ".db" else ():
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    shutil.copy2(path, target)


def _replace_folder(target: Path, kept: Path) -> None:
    """Put what a folder holds in place of what another does; that one stays, as it may be a mount or a link."""
    target.mkdir(exist_ok=True)
    arrived = target / ".restored"
    shutil.rmtree(arrived, ignore_errors=True)
    shutil.copytree(kept, arrived)
    for old in target.iterdir():
        if old.name in (arrived.name, _OF_THE_DISK):
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in arrived.iterdir():
        new.rename(target / new.name)
    arrived.rmdir()


def _refuse_graph_of_others(graph: "Graph", own: Collection[str]) -> None:
    """Raise where servers of other homes have written to a graph, and none of this one."""
    writers = {name for (name,) in graph.read("MATCH (j:Journal) RETURN j.name")}
    if writers and not writers.intersection(own):
        raise BackupError(
            f"the graph has events of {len(writers)} journals, none of them of this home: it may be another shop's, or "
            "the one in service",
            "See that graph.uri and KGRANK_NEO4J_URI name the right one; to replace it all the same: --graph-of-others",
        )


def _copy_journal(path: Path, folder: Path) -> str:
    """Copy a journal that may be written meanwhile; return its name."""
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(folder / path.name)) as target:
        source.backup(target)
    shutil.copymode(path, folder / path.name)
    return path.name


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            yield str(path.relative_to(folder)), digest
