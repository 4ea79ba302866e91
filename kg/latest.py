"""Which of the snapshots, or artifacts, in a folder is the newest: a file there has its name."""

from pathlib import Path

from kg.whole_files import write_whole

LATEST = "LATEST"
"""The file that names the newest."""


def latest_in(folder: Path) -> Path | None:
    """Return where the newest is said to be; None where none is named."""
    latest = folder / LATEST
    name = latest.read_text(encoding="utf-8").strip() if latest.is_file() else ""
    return folder / name if name else None


def note_latest(folder: Path, name: str) -> None:
    """Name the newest; of several that end at once, one is it.

    Raises:
        OSError: it can't be written.
    """
    write_whole(folder / LATEST, name.encode())
