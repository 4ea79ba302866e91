"""Memory that a loop of like steps takes over and over: kept by the process instead of given back each time.

glibc maps an array of some megabytes anew at every allocation and returns it when it is freed, so the kernel clears its
pages each time they are touched. Where a page fault is dear (virtual machines), that took most of a training step:
adding 1 to 68 MB took 62 ms with fresh pages and 9 ms with kept ones.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt(3)
_DEFAULTS = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 128 * 1024), (_TRIM_THRESHOLD, 128 * 1024))
_KEPT = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process until the end of the block, then return it; without glibc, do nothing."""
    libc = _glibc()
    if libc is None:
        yield
        return
    for name, value in _KEPT:
        libc.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in _DEFAULTS:
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
