"""Waits for what happens soon, with a deadline; never for a time that is hoped to be enough."""

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait until something holds; fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)
