"""Further processes that compute cells of a comparison, beside the one that reports on it.

They claim cells as it does (`CellStore.claimed`), so that each is computed once; what one of them could not compute,
the process that reports tries itself, and says why.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from model.compare.config import CompareConfig
from model.compare.running import help_out
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
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        yield config
    finally:
        torch.set_num_threads(before)
        for each in beside:
            each.terminate()
            each.join()


def _help(config: CompareConfig, place: Place, only: Sequence[str], threads: int) -> None:
    """Compute what nobody else is at, for as long as the process that reports is there."""
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(threads)
    help_out(config, place, only)


def _leave_with_the_parent() -> None:
    """End this process when its parent has ended, also by a signal that left it no time to say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
