"""The quarantine file: every refused row with its place, field, value and rule.

It may hold personal data, so it is readable by its owner alone, and its values go nowhere else: not to a log, not to
a report.
"""

import json
import os
import stat
import tempfile
from pathlib import Path

import pyarrow as pa

from kg.errors import DataError


def write_quarantine(path: Path, refused: pa.Table) -> None:
    """Write refused rows (`kg.sources.raw.REFUSALS`) as JSON lines, mode 0600, in one step.

    What a link names is written to, and so is a device or a pipe: it stays what it is.

    Raises:
        DataError: the file can't be written.
    """
    temporary: Path | None = None
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            _write(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), refused)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        temporary = Path(name)
        _write(descriptor, refused)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"quarantine file {path} can't be written: {error.strerror or error}", "Name another with --quarantine."
        ) from error


def _write(descriptor: int, refused: pa.Table) -> None:
    """Write to an open file, and close it."""
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
        for batch in refused.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
