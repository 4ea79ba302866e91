"""One BLAS thread inside `implicit`: it has threads of its own, and warns when BLAS brings more."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread for a while."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
