"""Erased users out of snapshots that were made before: their ids and their interactions.

A snapshot keeps its name and content hash: they say what it was exported as. Its index spaces stay too, so that
whatever was made of it still fits: an erased user is a row with a random id and an empty history.
"""

import ctypes
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg import writing
from kg.erasure import Erasure, user_key
from kg.errors import SnapshotError
from kg.schema import USER
from kg.snapshot import MANIFEST, Snapshot
from kg.user_keys import KeysOfFiles, which_file
from kg.vocabulary import Vocabulary

LOCK = ".erasing.lock"
"""In a folder of snapshots: whoever changes one that is there holds it."""
_USERS = "users.arrow"
_MARK = "\x7f"
"""Ends the id of an erased user's row: no id of a shop has a control character."""
_ERASED = rf"{_MARK}$|^erased-[0-9a-f]{{12}}4[0-9a-f]{{3}}[89ab][0-9a-f]{{15}}$"
"""Matches such an id, also of versions that made it of a random UUID alone."""
_OF_THE_DISK = "lost+found"
"""A mounted disk's own folder, which nobody else may read."""
_ABANDONED = ".erasing-"
_OLD = ".old"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def redact_all(
    snapshots: Path,
    erasures: Collection[Erasure],
    keys: KeysOfFiles | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> int:
    """Take erased users out of every snapshot of a folder; return in how many they were.

    A snapshot that a killed process left without its place (see `redact`) is put back first, and what one left that was
    not whole yet is removed. A snapshot that can't be read may have an erased user: it counts as not done. A folder
    with no file of a snapshot is somebody's own.

    Args:
        snapshots: the folder; one process at a time works on it.
        erasures: a snapshot that was exported after one has nothing of that user, or what came after it.
        keys: of the users of the snapshots, as the call before left them; None: they are made anew.
        before_each: called before each snapshot; an error that it raises ends the work, and is raised here.

    Raises:
        SnapshotError: some can't be read or written; all others are done.
    """
    keys = KeysOfFiles() if keys is None else keys
    keys.look_anew()
    if not snapshots.is_dir() or not (erasures or _abandoned(snapshots) or writing.begun(snapshots)):
        return 0
    with ExitStack() as stack:
        try:
            stack.enter_context(writing.alone(snapshots / LOCK))
        except OSError as error:
            looks = ((folder, partial(_is_concerned, folder, erasures, keys)) for folder in _folders(snapshots))
            if not _done(looks):
                return 0  # a folder that can only be read is none to worry about then
            raise _not_rewritten(snapshots, error) from error
        return _done(_steps(snapshots, erasures, keys, before_each))


def are_erased(users: Vocabulary) -> npt.NDArray[np.bool_]:
    """Return which rows of a snapshot's users are those of erased ones `[U]`, and nobody's any more."""
    return np.asarray(pc.match_substring_regex(users.array, _ERASED), dtype=bool)


def _steps(
    snapshots: Path, erasures: Collection[Erasure], keys: KeysOfFiles, before_each: Callable[[], None]
) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """Yield what is to be done in a folder, each with what it is about; the next one once that is done."""
    for left in _abandoned(snapshots):  # by a process that was killed
        yield left, partial(_clear, left)
    for left in writing.begun(snapshots):
        yield left, partial(_clear_partial, left)
    for folder in _folders(snapshots):
        before_each()
        yield folder, partial(redact, folder, erasures, keys)


def _done(steps: Iterable[tuple[Path, Callable[[], bool]]]) -> int:
    """Take every step, whatever becomes of the others; return how many had something to do.

    Raises:
        SnapshotError: some failed; it names each.
    """
    count = 0
    failed: list[SnapshotError] = []
    for path, step in steps:
        try:
            count += step()
        except SnapshotError as error:
            failed.append(error)
        except Exception as error:  # damage shows as any; its text may quote an id
            failed.append(_unreadable(f"snapshot {path} is damaged ({type(error).__name__})"))
    if failed:
        remedies = dict.fromkeys(error.remedy for error in failed)
        raise SnapshotError("; ".join(error.problem for error in failed), " ".join(remedies)) from failed[0]
    return count


def _folders(snapshots: Path) -> list[Path]:
    return [path for path in _folders_in(snapshots) if not path.name.startswith(".") and path.name != _OF_THE_DISK]


def _abandoned(snapshots: Path) -> list[Path]:
    return [path for path in _folders_in(snapshots) if path.name.startswith(_ABANDONED)]


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder; unlike a glob, which finds nothing in one that must not be read.

    Raises:
        SnapshotError: it can't be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise _not_rewritten(folder, error) from error


def redact(folder: Path, erasures: Collection[Erasure], keys: KeysOfFiles | None = None) -> bool:
    """Take erased users out of one snapshot; return whether they were in it.

    Whoever has it open goes on with what it has. Where the file system can swap two folders in one step, whoever opens
    it sees the old one or the new one, whole. Where it can't, as many a network file system, there is none for the
    moment between two renames; a process that is killed just then leaves none, until `redact_all` is run again.

    Raises:
        SnapshotError: it can't be read or written.
    """
    keys = KeysOfFiles() if keys is None else keys
    found = _erased_in(folder, erasures, keys)
    if not found:
        return False
    snapshot = _opened(folder, verify=True)  # damage must not get a digest that fits it
    keep = ~np.isin(snapshot.histories.users_of_rows(), snapshot.users.indices(found))
    ids = snapshot.users.array.to_pylist()
    names = {user_id: f"erased-{uuid.uuid4().hex}{_MARK}" for user_id in found}
    redacted = replace(
        snapshot,
        users=Vocabulary([names.get(user_id, user_id) for user_id in ids]),
        histories=snapshot.histories.where(keep),
        nodes=_renamed(snapshot.nodes, names),
    )
    known = keys.of(which_file(folder / _USERS), snapshot.users)
    _put(redacted, folder)
    keys.keep(which_file(folder / _USERS), known)
    return True


def put_again(snapshot: Snapshot, folder: Path) -> bool:
    """Let a saved snapshot of the same content hash be this one; return whether it was redacted, and is whole now.

    Whoever was erased has come back if all that the user did is in the graph once more. Where nobody was erased, it is
    noted that the graph has this content at this one's commit, too.

    Raises:
        SnapshotError: it is damaged, or can't be written.
    """
    with writing.alone(folder.parent / LOCK):
        # Every id counts for the hash: others are those of erased users' rows.
        redacted = not _opened(folder, verify=False).users.array.equals(snapshot.users.array)
        if redacted:
            _put(snapshot, folder)
        else:
            snapshot.note_commit(folder)
    return redacted


def _put(snapshot: Snapshot, folder: Path) -> None:
    """Put a snapshot in place of another."""
    holder: Path | None = None
    try:
        holder = Path(tempfile.mkdtemp(prefix=_ABANDONED, dir=folder.parent))
        snapshot.save(holder / folder.name)
        _exchange(holder / folder.name, folder)
    except OSError as error:
        raise _not_rewritten(folder, error) from error
    finally:
        if holder is not None:
            _clear(holder)


def _renamed(nodes: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Return nodes with other ids and names for some users: snapshots of older versions had those whom facts name."""
    rows = nodes.to_pylist()
    for row in rows:
        if row["kind"] == USER.kind and row["id"] in names:
            row["id"] = row["name"] = names[row["id"]]
    return pa.Table.from_pylist(rows, nodes.schema)


def _clear(holder: Path) -> bool:
    """Remove what rewriting a snapshot left; one that has lost its place to it is put back first. No user was in it.

    Raises:
        SnapshotError: it can't be put back, or read; nothing is removed.
    """
    for old in (path for path in _folders_in(holder) if path.name.endswith(_OLD)):
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
    return False


def _clear_partial(holder: Path) -> bool:
    """Remove a snapshot that a killed process had not written to its end. No user was in one."""
    try:
        writing.clear(holder)
    except OSError as error:
        raise _not_rewritten(holder, error) from error
    return False


def _is_whole(folder: Path) -> bool:
    try:
        Snapshot.open(folder)
    except SnapshotError:
        return False
    return True


def _erased_in(folder: Path, erasures: Collection[Erasure], keys: KeysOfFiles) -> list[str]:
    """Return the users of a snapshot who were erased since it was exported.

    Raises:
        SnapshotError: nobody can tell, as it can't be read.
    """
    if not erasures:
        return []
    which = which_file(folder / _USERS)
    try:
        snapshot = _opened(folder, verify=False)
    except SnapshotError:
        if _may_be_one(folder):
            raise
        return []  # it was just removed, or is somebody's own
    erased = {each.user_key for each in erasures if each.commit > snapshot.commit}
    if not erased:
        return []
    known = keys.of(which if which == which_file(folder / _USERS) else None, snapshot.users)
    named = snapshot.nodes.filter(pc.equal(snapshot.nodes["kind"], USER.kind))["id"].to_pylist()
    return list(known.among(snapshot.users, erased) | {user_id for user_id in named if user_key(user_id) in erased})


def _may_be_one(folder: Path) -> bool:
    """Return whether a folder has a file of a snapshot, as far as can be told."""
    try:
        return any(path.name == MANIFEST or path.suffix == ".arrow" for path in folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _is_concerned(folder: Path, erasures: Collection[Erasure], keys: KeysOfFiles) -> bool:
    return bool(_erased_in(folder, erasures, keys))


def _opened(folder: Path, *, verify: bool) -> Snapshot:
    try:
        return Snapshot.open(folder, verify=verify)
    except SnapshotError as error:
        raise _unreadable(error.problem) from error
    except OSError as error:
        raise _not_rewritten(folder, error) from error


def _unreadable(problem: str) -> SnapshotError:
    return SnapshotError(problem, "Remove that folder, and export another: who was erased may be in it.")


def _not_rewritten(path: Path, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"snapshots can't be rewritten in {path}: {error.strerror or error}",
        "Free space, let this server read and write there; it is tried again with every erasure and at every start.",
    )


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, else in two."""
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(AttributeError):
        if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
    other.rename(one.with_name(f"{one.name}{_OLD}"))
    one.rename(other)
