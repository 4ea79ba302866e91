"""How many threads a library may take, and only while it works for us."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread: `implicit` has threads of its own, and warns when BLAS brings more."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads, 0: as many as before; give it back those it had, whatever was done meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
