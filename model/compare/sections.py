"""What a comparison run takes and gives: where it works, who hears of it, and sections of finished cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kg.snapshot import Snapshot
from model.case import Split
from model.compare.cells import Cell, Outcome
from model.compare.variants import Variant


@dataclass(frozen=True)
class Entry:
    """One model in a section: the cells of its seeds, or why there are none.

    Args:
        variant: the model.
        cells: with what came of each.
        tried: configurations that were tried on validation in this run.
        problem: why it could not be computed.
        seedless: another seed gave the same rankings, so that further ones were left out.
    """

    variant: Variant
    cells: Sequence[tuple[Cell, Outcome]] = ()
    tried: int = 1
    problem: str = ""
    seedless: bool = False


@dataclass(frozen=True)
class Skipped:
    """What could not be had: a data set, a protocol on it, an option of a search."""

    what: str
    why: str


@dataclass(frozen=True)
class Section:
    """One data set in one protocol.

    Args:
        data: name of the data set.
        title: what a report calls it.
        protocol: name of the protocol.
        snapshot: the data set.
        split: of it.
        entries: its models.
        left_out: those of the comparison that this run was not asked for.
        failed: options of searches that could not be tried.
    """

    data: str
    title: str
    protocol: str
    snapshot: Snapshot = field(repr=False)
    split: Split = field(repr=False)
    entries: Sequence[Entry] = ()
    left_out: Sequence[Variant] = ()
    failed: Sequence[Skipped] = ()


@dataclass(frozen=True)
class Watcher:
    """Who hears how far a comparison is.

    Args:
        on_plan: called with the number of cells at most, and how many of them are there already.
        on_cell: called after every cell that was looked for or computed: the cell, whether it was there, seconds, and
            the seconds that the rest will take, None while that can't be told.
        on_epoch: called with the cell under way, the epoch and its validation NDCG@10.
        on_problem: called with what could not be done, and why.
    """

    on_plan: Callable[[int, int], None] = lambda total, there: None
    on_cell: Callable[[Cell, bool, float, float | None], None] = lambda cell, there, seconds, left: None
    on_epoch: Callable[[Cell, int, float], None] = lambda cell, epoch, ndcg: None
    on_problem: Callable[[str, str], None] = lambda what, why: None


@dataclass(frozen=True)
class Place:
    """Where a comparison reads and keeps.

    Args:
        config_folder: what paths of the configuration are relative to.
        data_folder: what paths of data are relative to.
        home: the folder of cells and checkpoints.
        cache_folder: of text features and fetched packages.
    """

    config_folder: Path
    data_folder: Path
    home: Path
    cache_folder: Path
