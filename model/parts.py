"""A large result as a folder of Parquet parts that a killed run leaves in order and a next one completes.

    <folder>/job.json            what is being made; a folder serves one job only
             part-00000.parquet  items 0 to part_size - 1, whole or not there

A part is written under a temporary name, flushed, and renamed. Which parts are there is all the state there is. A file
that all of them were merged into has the job in its metadata.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kg.whole_files import write_whole
from model.errors import ModelError

JOB = "job.json"
_FINISHED = "finished"
_MADE_AS = b"kgrank.job"


@dataclass(frozen=True)
class Job:
    """What a folder of parts is: `items` in parts of `part_size`, made as `settings` say (JSON values)."""

    items: int
    part_size: int
    settings: Mapping[str, Any]

    @property
    def parts(self) -> int:
        """How many parts it takes; one even for nothing, so that the columns are known."""
        return max(1, -(-self.items // self.part_size))

    def rows(self, part: int) -> range:
        """Return the items of one part."""
        return range(part * self.part_size, min((part + 1) * self.part_size, self.items))

    def as_json(self) -> str:
        """Return it as text, the same for the same job."""
        return json.dumps(asdict(self), sort_keys=True)


def part_path(folder: Path, part: int) -> Path:
    """Return where a part stands."""
    return folder / f"part-{part:05}.parquet"


def write_parts(
    folder: Path, job: Job, make: Callable[[range], pa.Table], advance: Callable[[int], None] = lambda count: None
) -> int:
    """Write the parts that are not there yet.

    Args:
        folder: new, or left by an earlier run of the same job.
        job: what is made.
        make: returns the table of some items; called for one part at a time.
        advance: hears how many items are done, also those that were there.

    Returns:
        How many parts an earlier run had finished.

    Raises:
        ModelError: the folder holds another job, or can't be written; the parts that are whole stay.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, job)
        found = 0
        for part in range(job.parts):
            if part_path(folder, part).exists():
                found += 1
            else:
                _write_part(folder, part, make(job.rows(part)))
            advance(len(job.rows(part)))
        _clear_partial(folder)
        _write_job(folder, job, finished=True)
    except OSError as error:
        raise ModelError(
            f"results can't be written to {folder}: {error.strerror or error}",
            "Free space or choose another folder; run again with the same one to go on where it stopped.",
        ) from error
    return found


def merge(folder: Path, job: Job, file: Path) -> None:
    """Put all parts into one Parquet file, a row group at a time, in one step; the folder is removed.

    Raises:
        ModelError: it can't be written; the parts stay.
    """
    partial = folder / f".part-all.{os.getpid()}"  # one that a killed run leaves goes with what else it left
    try:
        schema = pq.read_schema(part_path(folder, 0)).with_metadata({_MADE_AS: job.as_json()})
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for part in range(job.parts):
                with pq.ParquetFile(part_path(folder, part)) as source:
                    for group in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(group))
        _flush(partial)
        partial.replace(file)
        _clear(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ModelError(
            f"{file} can't be written: {error.strerror or error}",
            f"Free space and run again; the parts are in {folder}.",
        ) from error


def is_merged(folder: Path, job: Job, file: Path) -> bool:
    """Return whether `merge` has made a file of this very job; what a killed one has left of the folder is removed.

    Raises:
        ModelError: the folder holds another job, or can't be removed.
    """
    try:
        made_as = (pq.read_schema(file).metadata or {}).get(_MADE_AS)
    except (pa.ArrowException, OSError):
        return False  # none of ours
    if made_as != job.as_json().encode():
        return False
    try:
        if folder.exists():
            _claim(folder, job)
            _clear(folder)
    except OSError as error:
        raise ModelError(
            f"folder {folder} can't be removed: {error.strerror or error}", f"Remove it; {file} is whole."
        ) from error
    return True


def _clear(folder: Path) -> None:
    """Remove a folder whose parts are in one file; what it is for goes last, for a kill to leave it known."""
    _clear_partial(folder)
    for path in [*folder.glob("part-*.parquet"), folder / JOB]:
        path.unlink()
    folder.rmdir()


def _clear_partial(folder: Path) -> None:
    for left in [*folder.glob(".part-*"), *folder.glob(f".{JOB}.*")]:
        left.unlink()


def _claim(folder: Path, job: Job) -> None:
    """Note what the folder is for, or check that it is for this."""
    path = folder / JOB
    if not path.exists():
        left = set(folder.glob(f".{JOB}.*"))  # by a run that was killed as it began
        if any(each not in left for each in folder.iterdir()):
            raise ModelError(f"folder {folder} is not empty, and not a result of kgrank", "Choose another with --out.")
        _write_job(folder, job, finished=False)
        return
    try:
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = {}
    asked = json.loads(json.dumps(asdict(job)))
    different = sorted(
        {name for name in ("items", "part_size") if there.get(name) != asked[name]}
        | {name for name, value in asked["settings"].items() if there.get("settings", {}).get(name) != value}
    )
    if different:
        raise ModelError(
            f"folder {folder} holds results of another run: {', '.join(different)} differ",
            "Choose another with --out, or remove it.",
        )


def _write_job(folder: Path, job: Job, *, finished: bool) -> None:
    write_whole(folder / JOB, json.dumps(asdict(job) | {_FINISHED: finished}, indent=2).encode())


def _write_part(folder: Path, part: int, table: pa.Table) -> None:
    path = part_path(folder, part)
    partial = folder / f".{path.name}.{os.getpid()}"
    pq.write_table(table, partial, compression="zstd")
    _flush(partial)
    partial.replace(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
