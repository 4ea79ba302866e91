"""The quarantine file: every refused row with its place, field, value and rule.

It may hold personal data, so it is readable by its owner alone, and its values go nowhere else: not to a log, not to
a report.
"""

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa

from kg.errors import DataError


def write_quarantine(path: Path, refused: pa.Table) -> None:
    """Write refused rows (`kg.sources.raw.REFUSALS`) as JSON lines, mode 0600, in one step.

    Raises:
        DataError: the file can't be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        temporary = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for batch in refused.to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"quarantine file {path} can't be written: {error.strerror or error}", "Name another with --quarantine."
        ) from error
