"""Checkpoints of a training run: what it takes to go on after a kill to the same result; no pickle."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import ModelError

FILE = "checkpoint.safetensors"
_PARTIAL = ".partial"
"""The folder that a checkpoint is written in: safetensors has files of its own beside the one it writes."""
_LOCK = ".lock"


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch came to: mean loss, validation NDCG@10, seconds of wall clock; step size, and weights by name."""

    epoch: int
    loss: float
    ndcg: float
    seconds: float
    learning_rate: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run stands after an epoch; `run_key` says of which data and settings."""

    run_key: str
    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_ndcg: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """How many epochs are finished."""
        return len(self.records)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs away from a folder of checkpoints until the end of the block; a kill ends it, too.

    Raises:
        ModelError: another run has it, or it can't be written.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((folder / _LOCK).open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(
                f"another training or fine-tuning on this snapshot is under way: it has its checkpoints in {folder}",
                "Wait until it ends, or stop it; trainings at the same time take a home folder each.",
            ) from error
        except OSError as error:
            raise ModelError(
                f"checkpoints can't be kept in {folder}: {error.strerror or error}",
                "Choose a home folder that may be written, on a disk that can lock files.",
            ) from error
        yield


def save_checkpoint(folder: Path, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint in one step.

    Raises:
        ModelError: it can't be written.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    for row, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{row}.{name}": torch.as_tensor(value) for name, value in state.items()}
    facts = {
        "run_key": progress.run_key,
        "records": [asdict(record) for record in progress.records],
        "best_epoch": progress.best_epoch,
        "best_ndcg": progress.best_ndcg,
    }
    try:
        partial = folder / _PARTIAL / FILE
        shutil.rmtree(partial.parent, ignore_errors=True)  # of a run that was killed while it wrote
        partial.parent.mkdir(parents=True)
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            partial,
            {"progress": json.dumps(facts)},
        )
        partial.replace(folder / FILE)
        partial.parent.rmdir()
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"checkpoint {folder / FILE} can't be written: {error}", "Free space, then --resume."
        ) from error


def load_checkpoint(
    folder: Path,
    run_key: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    suits: Callable[[Progress], bool] = lambda progress: True,
) -> Progress | None:
    """Put a run back to its last checkpoint.

    Args:
        folder: where checkpoints are kept.
        run_key: of this run.
        network: is given the checkpoint's weights.
        optimizer: is given its state.
        suits: whether this run could have come to where the checkpoint's stood.

    Returns:
        Where it stood, or None when there is no checkpoint of this run (other data or settings do not count).

    Raises:
        ModelError: the checkpoint is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            facts = json.loads(stored.metadata()["progress"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping
        if facts["run_key"] != run_key:
            return None
        records = [EpochRecord(**record) for record in facts["records"]]
        progress = Progress(run_key, records, facts["best_epoch"], facts["best_ndcg"], _under("best.", tensors))
        if not suits(progress):
            return None
        network.load_state_dict(_under("network.", tensors))
        whole = optimizer.state_dict()
        whole["state"] = {}
        for name, value in _under("optimizer.", tensors).items():
            row, key = name.split(".", 1)
            whole["state"].setdefault(int(row), {})[key] = value
        optimizer.load_state_dict(whole)
        return progress
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"checkpoint {file} is damaged: {error}", "Remove it, or train without --resume.") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
