"""Admission: so many calls at once, and the next is refused before any work; who is in is served to the end.

How many is a matter of time as much as of places: behind a queue that takes longer than callers wait, every answer is
late and none is of use. The wait is the calls that are in, times the seconds from one answer to the next while many are
in (Little, 1961).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

MANY = 32
"""Fewer calls are let in however long they take: with two batches, one is waiting when the other is answered. And
only while as many are in do intervals tell what the server can do, not how often it is asked; of fewer, no more than
that it can do better."""

_NEWNESS = 0.01
"""An interval's part in the mean: answers come in batches, and a hundred of them smooth that."""


class Admission:
    """A number of places for calls. Its methods belong to the event loop's thread.

    Args:
        places: calls that are worked on or wait for it, at most.
        longest_wait_s: nobody is let in who would wait longer for its turn; None: places alone count.
        clock: tells seconds.
    """

    def __init__(
        self, places: int, longest_wait_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.places = places
        self.taken = 0
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._each_s = 0.0
        self._since_s = 0.0
        self._answers = 0  # since then

    @property
    def wait_s(self) -> float:
        """How long a call that comes now is going to wait; nothing where it is let in however long that takes."""
        return self.taken * self._each_s if self.taken >= MANY else 0.0

    @property
    def full(self) -> bool:
        """Whether the next call is refused."""
        if self.taken >= self.places:
            return True
        return self._longest_wait_s is not None and self.wait_s > self._longest_wait_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the length of a `with` block.

        Raises:
            OverloadedError: there is none; try again later.
        """
        if self.full:
            raise no_place()
        if not self.taken:
            self._since_s, self._answers = self._clock(), 0  # nobody was waited for until now
        self.taken += 1
        try:
            yield
            self._answered()
        finally:
            self.taken -= 1

    def _answered(self) -> None:
        """Learn how long an answer takes; who leaves without one teaches nothing."""
        now_s = self._clock()
        self._answers += 1
        each_s = (now_s - self._since_s) / self._answers
        if self.taken >= MANY or each_s < self._each_s:  # of fewer, some of the time may have gone by unasked
            self._each_s += _NEWNESS * (each_s - self._each_s)
        if self.taken >= MANY:
            self._since_s, self._answers = now_s, 0


def no_place() -> OverloadedError:
    """Return the error for a call that finds no place."""
    return OverloadedError("as many requests are waiting as may", "Try again a little later.")
