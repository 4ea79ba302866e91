"""Erased users out of snapshots that were made before: their ids and their interactions.

A snapshot keeps its name and content hash: they say what it was exported as. Its index spaces stay too, so that
whatever was made of it still fits: an erased user is a row with a random id and an empty history.
"""

import ctypes
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.erasure import Erasure, user_key
from kg.errors import SnapshotError
from kg.schema import USER
from kg.snapshot import MANIFEST, Snapshot
from kg.vocabulary import Vocabulary

_ABANDONED = ".erasing-"
_OLD = ".old"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def redact_all(snapshots: Path, erasures: Collection[Erasure]) -> int:
    """Take erased users out of every snapshot of a folder; return in how many they were.

    A snapshot that a killed process left without its place (see `redact`) is put back first.

    Args:
        snapshots: the folder; one process at a time works on it.
        erasures: a snapshot that was exported after one has nothing of that user, or what came after it.

    Raises:
        SnapshotError: one can't be read or written; those before it are done.
    """
    if not snapshots.is_dir() or not (erasures or any(snapshots.glob(f"{_ABANDONED}*/"))):
        return 0
    with ExitStack() as stack:
        try:
            stack.enter_context(_alone(snapshots / ".erasing.lock"))
        except OSError as error:
            if not any(_opened_with(folder, erasures)[1] for folder in _folders(snapshots)):
                return 0  # a folder that can only be read is none to worry about then
            raise _not_rewritten(snapshots, error) from error
        for left in snapshots.glob(f"{_ABANDONED}*/"):  # of a process that was killed
            _clear(left)
        return sum(redact(folder, erasures) for folder in _folders(snapshots))


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock, which another user of this machine may have made."""
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        lock = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _folders(snapshots: Path) -> list[Path]:
    return [path.parent for path in sorted(snapshots.glob(f"[!.]*/{MANIFEST}"))]


def redact(folder: Path, erasures: Collection[Erasure]) -> bool:
    """Take erased users out of one snapshot; return whether they were in it.

    Whoever has it open goes on with what it has. Where the file system can swap two folders in one step, whoever opens
    it sees the old one or the new one, whole. Where it can't, as many a network file system, there is none for the
    moment between two renames; a process that is killed just then leaves none, until `redact_all` is run again.

    Raises:
        SnapshotError: it can't be read or written.
    """
    snapshot, found = _opened_with(folder, erasures)
    if snapshot is None or not found:
        return False
    keep = ~np.isin(snapshot.histories.users_of_rows(), snapshot.users.indices(found))
    ids = snapshot.users.array.to_pylist()
    names = {user_id: f"erased-{uuid.uuid4().hex}" for user_id in found}
    redacted = replace(
        snapshot,
        users=Vocabulary([names.get(user_id, user_id) for user_id in ids]),
        histories=snapshot.histories.where(keep),
        nodes=_renamed(snapshot.nodes, names),
    )
    holder: Path | None = None
    try:
        holder = Path(tempfile.mkdtemp(prefix=_ABANDONED, dir=folder.parent))
        redacted.save(holder / folder.name)
        _exchange(holder / folder.name, folder)
    except OSError as error:
        raise _not_rewritten(folder, error) from error
    finally:
        if holder is not None:
            _clear(holder)
    return True


def _renamed(nodes: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Return nodes with other ids and names for some users: snapshots of older versions had those whom facts name."""
    rows = nodes.to_pylist()
    for row in rows:
        if row["kind"] == USER.kind and row["id"] in names:
            row["id"] = row["name"] = names[row["id"]]
    return pa.Table.from_pylist(rows, nodes.schema)


def _clear(holder: Path) -> None:
    """Remove what rewriting a snapshot left; one that has lost its place to it is put back first.

    Raises:
        SnapshotError: it can't be put back; nothing is removed.
    """
    for old in holder.glob(f"*{_OLD}"):
        new = old.with_name(old.name.removesuffix(_OLD))
        place = holder.parent / new.name
        # Both are here only between the two renames of `_exchange`. Without the new one, the snapshot has been in its
        # place since, and whoever took it away meant it.
        if new.exists() and not place.exists():
            try:
                (new if _is_whole(new) else old).rename(place)
            except OSError as error:
                raise _not_rewritten(place, error) from error
    shutil.rmtree(holder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        Snapshot.open(folder)
    except SnapshotError:
        return False
    return True


def _opened_with(folder: Path, erasures: Collection[Erasure]) -> tuple[Snapshot | None, list[str]]:
    """Return a snapshot, and those of its users who were erased since; None where it can't be opened."""
    try:
        snapshot = Snapshot.open(folder, verify=False)
    except SnapshotError:
        return None, []  # of another version, or damaged: nobody can open it either
    keys = {each.user_key for each in erasures if each.commit > snapshot.commit}
    if not keys:
        return snapshot, []
    named = snapshot.nodes.filter(pc.equal(snapshot.nodes["kind"], USER.kind))["id"].to_pylist()
    known = {*snapshot.users.array.to_pylist(), *named}
    return snapshot, [user_id for user_id in known if user_key(user_id) in keys]


def _not_rewritten(path: Path, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"snapshots can't be rewritten in {path}: {error.strerror or error}",
        "Free space, and let this server write there; it is tried again with every erasure and at every start.",
    )


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, else in two."""
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(AttributeError):
        if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
    other.rename(one.with_name(f"{one.name}{_OLD}"))
    one.rename(other)
