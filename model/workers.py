"""Data-parallel training: processes that `torchrun` started share the users of every step.

Each process has the whole network and graph. A step's users are dealt out in turn, every process takes the gradient of
its own, and the sums over all questions are shared, so that a step is the step that one process would have done (but
for what dropout draws). Sums go by gloo between processors, by NCCL between GPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.config import TrainConfig
from model.errors import ModelError

_LONGEST_WAIT = timedelta(days=7)  # what the first process does for all may take hours: fine-tuning, encoding


@dataclass(frozen=True)
class Workers:
    """This process among those that train together: `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one validates, writes and talks."""
        return self.rank == 0

    def share(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return which of a step's users are this process's."""
        return users[self.rank :: self.count]


@contextmanager
def joined_workers(config: TrainConfig) -> Iterator[Workers]:
    """Join the processes that `torchrun` started until the end of the block; alone without it.

    Raises:
        ModelError: they can't be reached, or there are more than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        yield current_workers()
        return
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(_own_gpu())
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the {count} training processes don't find each other: {error}",
            "Start them with torchrun, or unset WORLD_SIZE to train in one process.",
        ) from error
    try:
        yield current_workers()
    finally:
        dist.destroy_process_group()


def _own_gpu() -> int:
    """Return which GPU of this machine is this process's."""
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise ModelError(
            f"training process {own + 1} of this machine has no GPU: torch sees {there}",
            "Start at most as many with torchrun --nproc-per-node, or set train.device to cpu.",
        )
    return own


def current_workers() -> Workers:
    """Return the processes that were joined; alone if none were."""
    if not dist.is_available() or not dist.is_initialized():
        return Workers()
    return Workers(dist.get_rank(), dist.get_world_size())


@contextmanager
def first_worker_first() -> Iterator[None]:
    """Let the first process do the block, then the others, who find what it left in a cache."""
    workers = current_workers()
    if not workers.first:
        dist.barrier()
    try:
        yield
    finally:
        if workers.first and workers.count > 1:
            dist.barrier()


def share_gradients(parameters: list[nn.Parameter], loss: Tensor | None, questions: int) -> float:
    """Make every process's gradients those of the mean over all questions of the step.

    Args:
        parameters: in the same order in every process; those without a gradient count as zero.
        loss: this process's mean over its questions, None when it had none.
        questions: how many those were.

    Returns:
        The mean loss over all questions.
    """
    device = parameters[0].device
    sizes = [parameter.numel() for parameter in parameters]
    sums = torch.zeros(sum(sizes) + 2, device=device)
    for parameter, part in zip(parameters, torch.split(sums[2:], sizes), strict=True):
        if parameter.grad is not None:
            part.copy_(parameter.grad.view(-1)).mul_(questions)
    if loss is not None:
        sums[0], sums[1] = loss.detach() * questions, questions
    dist.all_reduce(sums)
    total = sums[1].clamp(min=1)
    sums[2:].div_(total)
    for parameter, part in zip(parameters, torch.split(sums[2:], sizes), strict=True):
        parameter.grad = part.view(parameter.shape)
    return float(sums[0] / total)


def from_first(value: float, device: torch.device) -> float:
    """Return the first process's number in every process."""
    told = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return float(told)


def copy_from_first(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Overwrite every process's tensors, of the same names and shapes, with the first's."""
    for name in sorted(tensors):
        there = tensors[name].to(device)
        dist.broadcast(there, 0)
        tensors[name].copy_(there)
