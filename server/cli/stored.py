"""What the home folder holds: the artifact and the snapshot that a command means."""

import json
import os
from pathlib import Path

from kg.errors import SnapshotError
from kg.snapshot import MANIFEST, Snapshot
from server.config import Settings

LATEST = "LATEST"
"""The file, in the folders of snapshots and artifacts, that names the newest."""


def artifact_folder(settings: Settings, version: str | None) -> Path:
    """Return the folder of a model version, by default of the one trained last.

    Raises:
        ArtifactError: there is none.
    """
    from model.errors import ArtifactError

    folder = settings.artifacts_folder
    if version is None:
        if not (folder / LATEST).is_file():
            raise ArtifactError(f"there is no model in {folder}", "Train one: kgrank train")
        version = (folder / LATEST).read_text(encoding="utf-8").strip()
    # A version is a folder's name, never a path that leads out of it.
    if version != Path(version).name or not (folder / version).is_dir():
        there = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir()) if folder.is_dir() else []
        remedy = f"There are: {', '.join(there)}." if there else "Train one: kgrank train"
        raise ArtifactError(f"there is no model {version!r} in {folder}", remedy)
    return folder / version


def open_snapshot(settings: Settings, name: str | None, content_hash: str | None = None) -> Snapshot:
    """Open a snapshot: the named one, else the one with a content hash, else the latest.

    Raises:
        SnapshotError: there is none, or it is damaged.
    """
    folder = settings.snapshots_folder
    if name is not None:
        return Snapshot.open(folder / name)
    if content_hash is not None:
        found = _with_hash(folder, content_hash)
        if found is None:
            raise SnapshotError(
                f"the snapshot that the model was trained on ({content_hash[:12]}) is not in {folder}",
                "Name one with --snapshot, or train on one that is there.",
            )
        return Snapshot.open(found)
    if not (folder / LATEST).is_file():
        raise SnapshotError(f"there is no snapshot in {folder}", "Make one: kgrank snapshot")
    return Snapshot.open(folder / (folder / LATEST).read_text(encoding="utf-8").strip())


def _with_hash(snapshots: Path, content_hash: str) -> Path | None:
    for path in sorted(snapshots.glob(f"[!.]*/{MANIFEST}")):
        try:
            if json.loads(path.read_text(encoding="utf-8"))["content_hash"] == content_hash:
                return path.parent
        except (ValueError, KeyError, TypeError):
            continue  # a damaged one is not the one that is looked for
    return None


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
