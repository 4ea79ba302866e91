"""Cells: one data set, protocol, model and seed each, named by the hash of what the result depends on, and kept.

    <folder>/<hash>/cell.json           what it is, when it was made, how long it took, what was chosen
                    lists.safetensors   the ranked products of each question's users, on validation and on test data

What is kept are rankings: making them looks at no right answer of the test. Metrics are computed from them when a
report is made, and those of the test in a report that says so.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.errors import ModelError

Stage = Literal["validation", "test"]
Lists = Mapping[tuple[int, Stage], npt.NDArray[np.int32]]
"""By question and stage, `[B, K]` product indices, best first."""

DEPTH = 20
"""How many products of each ranking are kept."""

_CELL, _LISTS, _CLAIMS = "cell.json", "lists.safetensors", ".claims"


@dataclass(frozen=True)
class Cell:
    """What is computed and kept as one.

    Args:
        data: name of the data set.
        protocol: name of the protocol.
        model: name of the model.
        seed: of its training.
        inputs: all that the result depends on, as JSON values.
    """

    data: str
    protocol: str
    model: str
    seed: int
    inputs: Mapping[str, Any] = field(repr=False)

    @cached_property
    def key(self) -> str:
        """The hash of the inputs; names are no part of it."""
        return hashlib.blake2b(json.dumps(self.inputs, sort_keys=True).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Args:
        lists: the rankings.
        seconds: it took to fit and to rank.
        chosen: the configuration that validation chose, by question where there were several.
        tried: configurations that it was chosen from, in this cell.
        records: of every epoch: its number, loss, validation NDCG@10 and seconds.
        validation_ndcg: NDCG@10 on the case that is tuned on, where the model reports it.
        created_at: ISO time.
    """

    lists: Lists = field(repr=False)
    seconds: float
    chosen: dict[str, Any] = field(default_factory=dict)
    tried: int = 1
    records: tuple[dict[str, float], ...] = ()
    validation_ndcg: float | None = None
    created_at: str = ""


@dataclass(frozen=True)
class CellStore:
    """A folder of cells."""

    folder: Path

    def find(self, cell: Cell) -> Outcome | None:
        """Return what was kept of a cell, None where there is nothing, or nothing whole."""
        place = self.folder / cell.key
        try:
            told = json.loads((place / _CELL).read_text(encoding="utf-8"))["outcome"]
            lists: dict[tuple[int, Stage], npt.NDArray[np.int32]] = {}
            for name, ranked in load_file(place / _LISTS).items():
                question, _, stage = name.partition("-")
                lists[int(question), "test" if stage == "test" else "validation"] = ranked
            return Outcome(lists=lists, **told | {"records": tuple(told["records"])})
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    @contextmanager
    def claimed(self, cell: Cell, *, wait: bool) -> Iterator[bool]:
        """Claim a cell for the length of a `with` block; yield whether it is ours to compute.

        Args:
            cell: to be computed.
            wait: until another process, if one is at it, has done with it; else it is not ours.

        Raises:
            ModelError: the folder can't be written.
        """
        path = self.folder / _CLAIMS / cell.key  # it stays: to remove it while another waits for it would let two in
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(path.open("a"))
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise ModelError(
                    f"cells can't be claimed in {path.parent}: {error.strerror or error}",
                    "Choose a home folder that may be written, on a disk that can lock files.",
                ) from error
            yield True

    def keep(self, cell: Cell, outcome: Outcome) -> None:
        """Keep a cell: whole, or not at all.

        Raises:
            ModelError: it can't be written.
        """
        partial: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{cell.key}.", dir=self.folder))
            named = {f"{question}-{stage}": ranked for (question, stage), ranked in outcome.lists.items()}
            save_file({name: np.ascontiguousarray(ranked) for name, ranked in named.items()}, partial / _LISTS)
            told = {name: value for name, value in asdict(outcome).items() if name != "lists"}
            with (partial / _CELL).open("w", encoding="utf-8") as text:
                json.dump(asdict(cell) | {"outcome": told}, text, indent=2)
                os.fsync(text.fileno())
            place = self.folder / cell.key
            shutil.rmtree(place, ignore_errors=True)
            partial.rename(place)
        except OSError as error:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            raise ModelError(
                f"results can't be kept in {self.folder}: {error.strerror or error}",
                "Free some space and run again: finished cells are kept.",
            ) from error
