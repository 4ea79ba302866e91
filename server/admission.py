"""Admission: so many calls at once, and none while others wait too long; refused before any work.

A burst on an idle server is taken in whole, up to the number of places: it is answered soon enough. When more comes in
than is answered for a while, the wait grows to what callers would no longer wait for; so the wait, not the number,
decides (as in CoDel, Nichols and Jacobson 2012, doi:10.1145/2208917.2209336). Who is in is served to the end.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

_REMEDY = "Try again a little later."


class Admission:
    """A number of places for calls. Its methods belong to the event loop's thread.

    Args:
        places: calls that are worked on or wait for it, at most.
        waited_s: how long the call that waits longest has waited.
        most_s: with a longer wait than this, no call is taken in.
    """

    def __init__(self, places: int, waited_s: Callable[[], float] = lambda: 0.0, most_s: float = math.inf) -> None:
        self.places = places
        self.taken = 0
        self._waited_s, self._most_s = waited_s, most_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the length of a `with` block.

        Raises:
            OverloadedError: there is none, or those who have one wait too long; try again later.
        """
        if self.taken >= self.places:
            raise OverloadedError(f"{self.taken} requests are waiting", _REMEDY)
        if (waited_s := self._waited_s()) > self._most_s:
            raise OverloadedError(f"requests wait for {waited_s:.2f} s", _REMEDY)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
