"""How many files a server may have open: each connection is one."""

import resource
from contextlib import suppress

_BESIDE_CALLS = 256
"""Journal, log, models, graph and what the libraries open."""


def allow_all_files() -> None:
    """Raise the limit of this process as far as it may: beyond it, new connections and probes wait unanswered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says "no limit" and takes a smaller number only
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_files() -> int | None:
    """Return how many files a server that this user starts may open; None where there is no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def needed_files(max_calls: int) -> int:
    """Return how many files a server opens where each call comes over a connection of its own."""
    return max_calls + _BESIDE_CALLS
