"""Further processes that compute cells of a comparison, beside the one that reports on it.

They claim cells as it does (`CellStore.claimed`), so that each is computed once; what one of them could not compute,
the process that reports tries itself, and says why.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from model.compare.config import CompareConfig
from model.compare.running import run
from model.compare.sections import Place


@contextmanager
def workers_beside(config: CompareConfig, place: Place, only: Sequence[str], workers: int) -> Iterator[CompareConfig]:
    """Run a comparison in further processes for the length of a `with` block; the processors are shared out evenly.

    Args:
        config: the comparison.
        place: where it reads and keeps.
        only: patterns of DATA/PROTOCOL/MODEL to compute; everything when empty.
        workers: processes in all, this one among them.

    Yields:
        The comparison with the threads that this process should take.
    """
    if workers == 1:
        yield config
        return
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    config = config.model_copy(update={"threads": config.threads or threads})
    spawn = multiprocessing.get_context("spawn")  # a forked torch may hang
    beside = [
        spawn.Process(target=_help, args=(config, place, tuple(only), threads), daemon=True) for _ in range(workers - 1)
    ]
    for each in beside:
        each.start()
    try:
        _take(threads)
        yield config
    finally:
        for each in beside:
            each.terminate()
            each.join()


def _help(config: CompareConfig, place: Place, only: Sequence[str], threads: int) -> None:
    """Compute what nobody else is at."""
    _take(threads)
    for _ in run(config, place, only=only, help_only=True):
        """A data set that is not there: the process that reports says so."""


def _take(threads: int) -> None:
    """Take no more than so many threads."""
    import torch

    torch.set_num_threads(threads)
