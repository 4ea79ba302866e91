"""Threads that compute beside the event loop, with as many processor threads each as the process was told to take."""

from concurrent.futures import ThreadPoolExecutor

import torch


def computing_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Return threads for work that uses torch.

    OpenMP keeps its number of threads for each thread that calls it: without this, matrix products in these threads
    would take every core, whatever `serve.threads` says, and the helpers would turn between them.

    Args:
        count: how many.
        name: their names begin with it.
    """
    return ThreadPoolExecutor(
        count, thread_name_prefix=name, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    )
