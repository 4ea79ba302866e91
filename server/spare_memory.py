"""Memory that is free goes back to the operating system, so that catalogue changes leave a server no larger.

Each change makes matrices, indexes and tables anew, of several MiB each and in several threads, and lets the old ones
go. What is freed stays in pieces with the allocator of the thread that took it, and arrow's own allocator keeps more of
it than the C library's. So arrow uses the C library's here, which is told after each change to return whole free pages
(`malloc_trim(3)` of glibc; elsewhere nothing is done).
"""

import ctypes
import sys
from collections.abc import Callable

import pyarrow as pa


def share_one_allocator() -> None:
    """Let arrow take memory from the C library's allocator from now on."""
    pa.set_memory_pool(pa.system_memory_pool())


def _trimmer() -> Callable[[int], int] | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is None:  # musl has none
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda pad: int(trim(pad))


_TRIM = _trimmer()


def give_back() -> bool:
    """Return the free pages of all threads, in some milliseconds, without the interpreter's lock; say if any were."""
    return _TRIM is not None and _TRIM(0) == 1
