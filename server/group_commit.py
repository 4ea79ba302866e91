"""Group commit: when the next transaction of the journal begins, at once while few write, with many once they are back.

A transaction takes the interpreter from the loop a dozen times, however few events it has, so many small ones hold up
the very callers that would have made a large one. Whoever has an answer writes again a moment later: so the next
transaction waits until nearly as many have come as the last one answered. The longer that one took, the more it may
wait. (Until all have come would be too long where callers don't wait for answers: each transaction would gather a few
more than the last.)
"""

import time
from collections.abc import Callable

_MANY = 16
"""Callers from which on it waits: fewer would lose more than they gain."""

_BY_LAST = 6.0
"""How long it waits at most, by how long the last transaction took."""

_LONGEST_S = 0.025
_LOOK_EVERY_S = 0.001
_NEARLY = 0.9


class GroupCommit:
    """Waits for the callers of the last transaction; belongs to the thread that writes."""

    def __init__(self) -> None:
        self._callers, self._took_s = 1, 0.0

    def wait(self, waiting: Callable[[], int]) -> None:
        """Return once a transaction should begin.

        Args:
            waiting: returns how many callers wait to be written now.
        """
        count = waiting()
        if max(count, self._callers) <= _MANY:
            return
        until_s = time.perf_counter() + min(_BY_LAST * self._took_s, _LONGEST_S)
        while count < _NEARLY * self._callers and time.perf_counter() < until_s:
            time.sleep(_LOOK_EVERY_S)
            count = waiting()

    def wrote(self, callers: int, took_s: float) -> None:
        """Hear of a transaction: how many callers it had, and how long it took."""
        self._callers, self._took_s = callers, took_s
