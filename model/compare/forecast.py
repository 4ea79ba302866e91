"""How long the rest of a comparison will take, from what its cells have taken so far."""

from collections import defaultdict
from collections.abc import Iterator

from model.compare.cells import Cell

_Place = tuple[str, str, str]


class Forecast:
    """Counts cells that are expected and done; a cell takes what its like have taken.

    Its like are, in this order: other seeds of the same model, models of the same kind on the same data set, models
    of the same kind.
    """

    def __init__(self) -> None:
        self.total = self.there = 0
        self._waiting: dict[_Place, int] = defaultdict(int)
        self._ours: dict[_Place, bool] = {}
        self._taken: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._found: set[str] = set()

    def expect(self, cell: Cell, seconds: float | None, *, ours: bool) -> None:
        """Count a cell; `seconds` is what it took, where it is there already."""
        place = _place(cell)
        self.total += 1
        self._ours[place] = ours
        if seconds is None:
            self._waiting[place] += 1
            return
        self.there += 1
        self._found.add(cell.key)
        self._learn(place, seconds)

    def done(self, cell: Cell, seconds: float, *, there: bool) -> None:
        """Count a cell as done."""
        if cell.key in self._found:
            return
        place = _place(cell)
        self._waiting[place] = max(0, self._waiting[place] - 1)
        if not there:
            self._learn(place, seconds)

    def left_s(self) -> float | None:
        """Return the seconds that the waiting cells will take; None while nothing is known of some."""
        total = 0.0
        for place, count in self._waiting.items():
            if not count:
                continue
            known = next((self._taken[key] for key in self._keys(place) if self._taken[key]), None)
            if known is None:
                return None
            total += count * sum(known) / len(known)
        return total

    def _learn(self, place: _Place, seconds: float) -> None:
        for key in self._keys(place):
            self._taken[key].append(seconds)

    def _keys(self, place: _Place) -> Iterator[tuple[str, ...]]:
        kind = "ours" if self._ours.get(place, True) else "peer"
        yield place
        yield place[0], kind
        yield (kind,)


def _place(cell: Cell) -> _Place:
    return cell.data, cell.protocol, cell.model
