"""Free memory goes back to the operating system."""

import ctypes

import psutil
import pyarrow as pa
import pytest

from server.spare_memory import _TRIM, give_back, share_one_allocator


@pytest.mark.skipif(_TRIM is None, reason="this C library can't be told")
def test_free_pages_between_taken_ones_go_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    size, count = 100_000, 2_000  # of a size that comes from the heap, not from a mapping of its own
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    process = psutil.Process()
    for place, block in enumerate(blocks):
        if place % 10:  # what stays keeps the heap from shrinking
            libc.free(block)
    held = process.memory_info().rss
    assert give_back()
    freed = held - process.memory_info().rss
    for block in blocks[::10]:
        libc.free(block)
    assert freed > size * count // 2


def test_arrow_takes_memory_from_the_c_library() -> None:
    before = pa.default_memory_pool()
    try:
        share_one_allocator()
        assert pa.array([1, 2, 3]).buffers()[1] is not None
        assert pa.default_memory_pool().backend_name == "system"
    finally:
        pa.set_memory_pool(before)


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.spare_memory._TRIM", None)
    assert not give_back()
