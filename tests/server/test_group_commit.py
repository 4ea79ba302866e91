"""When a transaction begins, by a clock that only sleeping moves."""

import itertools
from collections.abc import Iterable

import pytest

from server import group_commit
from server.group_commit import GroupCommit


class Clock:
    """Stands still but for sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.now_s += seconds


def waited_s(monkeypatch: pytest.MonkeyPatch, callers: int, took_s: float, waiting: Iterable[int]) -> float:
    """Return how long a transaction waits after one of so many callers, with so many seen at each look."""
    clock, seen, group = Clock(), iter(waiting), GroupCommit()
    monkeypatch.setattr(group_commit, "time", clock)
    group.wrote(callers, took_s)
    group.wait(lambda: next(seen))
    return clock.now_s


@pytest.mark.parametrize(
    ("callers", "waiting"),
    [(16, [3]), (3, [40])],  # few writers; more of them than the last time
)
def test_it_begins_at_once(monkeypatch: pytest.MonkeyPatch, callers: int, waiting: list[int]) -> None:
    assert waited_s(monkeypatch, callers, 1.0, waiting) == 0


def test_many_wait_until_nearly_all_of_the_last_transaction_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited_s(monkeypatch, 64, 10.0, [20, 57, 58]) == pytest.approx(0.002)


@pytest.mark.parametrize(("took_s", "most_s"), [(0.001, 0.006), (10.0, 0.025)])
def test_who_stays_away_is_not_waited_for_longer_than_the_last_transaction_allows(
    monkeypatch: pytest.MonkeyPatch, took_s: float, most_s: float
) -> None:
    assert waited_s(monkeypatch, 64, took_s, itertools.repeat(20)) == pytest.approx(most_s, abs=0.001)
