"""A folder that is being written, and what is left of one whose writer was killed.

The writer holds a lock for as long as it lives, on whichever machine that is: so others can tell whether it still does.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".writing-"
_LOCK = "lock"
_CONTENT = "new"


@contextmanager
def alone(file: Path) -> Iterator[None]:
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


@contextmanager
def writing(parent: Path) -> Iterator[Path]:
    """Yield a new folder, which only its owner may read, to be written and renamed; what is left of it then goes.

    Raises:
        OSError: it can't be made there.
    """
    holder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        # It has its name once it is locked: whoever finds it free may take the writer for gone.
        unlocked = holder / f".{_LOCK}"
        with unlocked.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(holder / _LOCK)
            content = holder / _CONTENT
            content.mkdir(mode=0o700)
            yield content
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def begun(parent: Path) -> list[Path]:
    """Return what is being written in a folder, and what killed writers left there; also what only they may read."""
    return [path for path in sorted(parent.iterdir()) if path.name.startswith(_PREFIX) and _may_be_locked(path)]


def _may_be_locked(holder: Path) -> bool:
    try:
        return (holder / _LOCK).exists()
    except PermissionError:
        return True


def clear(holder: Path) -> None:
    """Remove one of `begun` if its writer is gone.

    Raises:
        OSError: it can't be removed.
    """
    try:
        with (holder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(holder)
    except (BlockingIOError, FileNotFoundError):
        return  # it is still being written, or its writer has just come to its end
