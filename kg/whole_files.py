"""Small files that are there whole or not at all."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever reads it, also after a power failure, finds the old one or this one.

    What a link names is replaced, not the link; a device or a pipe is written to. What only its owner may read, or
    keeps its owner, is not for this: the new file is as any other.

    Raises:
        OSError: it can't be written; what was there stays, and nothing else is left beside it.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not named by the process's number: in containers that share the folder it may be the same in all.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
