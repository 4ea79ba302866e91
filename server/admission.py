"""Admission: so many calls at once, and the next is refused before any work; who is in is served to the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import OverloadedError


class Admission:
    """A number of places for calls. Its methods belong to the event loop's thread.

    Args:
        places: calls that are worked on or wait for it, at most.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the length of a `with` block.

        Raises:
            OverloadedError: there is none; try again later.
        """
        if self.taken >= self.places:
            raise OverloadedError(f"{self.taken} requests are waiting", "Try again a little later.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
