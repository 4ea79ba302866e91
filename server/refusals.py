"""The log of refused calls, which a flood of them can't fill: so many lines a second, and the rest is counted."""

import logging
import threading
import time
from collections.abc import Callable

import structlog

_LINES_PER_S = 20

_log = structlog.get_logger(__name__)


class RefusalLog:
    """Logs refusals. May be called from any thread.

    Args:
        lines_per_s: lines a second at most.
        clock: tells seconds.
        event: what the lines are called.
        level: theirs.
    """

    def __init__(
        self,
        lines_per_s: int = _LINES_PER_S,
        clock: Callable[[], float] = time.monotonic,
        *,
        event: str = "call_refused",
        level: int = logging.INFO,
    ) -> None:
        self._lines_per_s = lines_per_s
        self._clock = clock
        self._event, self._level = event, level
        self._lock = threading.Lock()
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def refused(self, **told: str) -> None:
        """Log a refusal, or count it; the next line says how many were left out before it."""
        with self._lock:
            if not self._has_room():
                self._left_out += 1
                return
            self._lines += 1
            left_out, self._left_out = self._left_out, 0
        more = {"left_out_before": left_out} if left_out else {}
        _log.log(self._level, self._event, **told, **more)

    def left_out(self) -> bool:
        """Count a refusal where there is no room for its line; return whether that was so."""
        with self._lock:
            if self._has_room():
                return False
            self._left_out += 1
            return True

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        return self._lines < self._lines_per_s
