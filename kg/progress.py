"""Who hears how far a long task is: the command line shows it, a test ignores it."""

from typing import Protocol


class Progress(Protocol):
    """Counts the units of a task that are done."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` says what is being done."""


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


SILENT: Progress = _Silent()
