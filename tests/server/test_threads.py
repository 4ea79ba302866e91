from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from server.threads import computing_threads


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_openmp_threads() -> list[int]:
    """Return how many threads torch's OpenMP would take for a call of this thread, by library."""
    library = Path(torch.__file__).parent / "lib"
    return [
        pool["num_threads"]
        for pool in threadpool_info()
        if pool["user_api"] == "openmp" and Path(pool["filepath"]).is_relative_to(library)
    ]


def test_threads_take_no_more_of_the_processor_than_the_process_was_told(one_thread: None) -> None:
    with computing_threads(2, "test") as threads:
        taken = [threads.submit(torch_openmp_threads).result() for _ in range(4)]
    assert taken == [torch_openmp_threads()] * 4
    assert set(taken[0]) <= {1}
