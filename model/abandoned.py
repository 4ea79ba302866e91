"""What writers that were killed left behind: hidden folders that nobody has touched for a while."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

_ABANDONED_S = 3600
"""A writer takes minutes. Its process id would not do: other machines may share the folder."""


def clear_abandoned(folder: Path, prefix: str) -> None:
    """Remove what writers left in a folder, by the prefix of its name; what can't be removed stays."""
    for left in folder.glob(f"{prefix}*"):
        with suppress(OSError):  # it is just being written, or somebody else removes it
            touched = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - touched > _ABANDONED_S:
                shutil.rmtree(left)
