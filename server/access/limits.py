"""Rate limits of callers: a token bucket each (Turner, 1986)."""

from collections import OrderedDict
from time import monotonic

_MOST_CALLERS = 100_000


class Rate:
    """How often one caller may call.

    Args:
        per_s: calls a second in the long run.
        burst: calls that may come at once.
    """

    __slots__ = ("_burst", "_left", "_per_s", "_seen_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._seen_s = monotonic()

    def take(self) -> float:
        """Take one call; return 0, or the seconds until there is one to take."""
        now_s = monotonic()
        self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_s


class Rates:
    """The rates of all callers; the ones seen last are remembered.

    Args:
        per_s: calls a second of a caller who has no rate of its own; 0: no limit.
        burst_s: seconds' worth of calls that may come at once.
    """

    def __init__(self, per_s: float, burst_s: float) -> None:
        self._per_s = per_s
        self._burst_s = burst_s
        self._rates: OrderedDict[tuple[str, float], Rate] = OrderedDict()

    def take(self, caller: str, per_s: float | None) -> float:
        """Take one call of a caller; return 0, or the seconds until there is one to take."""
        limit = self._per_s if per_s is None else per_s
        if not limit:
            return 0.0
        key = (caller, limit)
        rate = self._rates.get(key)
        if rate is None:
            rate = self._rates[key] = Rate(limit, limit * self._burst_s)
            if len(self._rates) > _MOST_CALLERS:
                self._rates.popitem(last=False)
        self._rates.move_to_end(key)
        return rate.take()
