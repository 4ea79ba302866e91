"""Admission by places and by time, on a clock that the test sets."""

from contextlib import ExitStack

import pytest

from server.admission import Admission
from server.errors import OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def in_turn(admission: Admission, clock: Clock, *, calls: int, answers: int, each_s: float) -> list[ExitStack]:
    """Let calls in, and answer the oldest one every so often, another one coming; return those that are in."""
    inside = [let_in(admission) for _ in range(calls)]
    for _ in range(answers):
        clock.now_s += each_s
        inside.pop(0).close()
        inside.append(let_in(admission))
    return inside


def let_in(admission: Admission) -> ExitStack:
    place = ExitStack()
    place.enter_context(admission.place())
    return place


def test_beyond_its_places_nobody_is_let_in_and_who_leaves_gives_one_back() -> None:
    admission = Admission(2)
    first, _ = let_in(admission), let_in(admission)
    assert admission.full
    with pytest.raises(OverloadedError), admission.place():
        pass
    first.close()
    assert not admission.full
    assert admission.taken == 1


def test_the_wait_is_the_calls_that_are_in_times_what_an_answer_takes() -> None:
    clock = Clock()
    admission = Admission(1000, 10.0, clock)
    inside = in_turn(admission, clock, calls=40, answers=2000, each_s=0.002)
    assert admission.wait_s == pytest.approx(len(inside) * 0.002)


@pytest.mark.parametrize(("each_s", "most"), [(0.001, 251), (0.005, 51), (0.5, 32)])
def test_no_more_are_let_in_than_are_answered_in_the_longest_wait(each_s: float, most: int) -> None:
    clock = Clock()
    # Two batches are always let in, though at half a second each they wait for longer.
    learned = Admission(1000, 1e9, clock)
    inside = in_turn(learned, clock, calls=32, answers=3000, each_s=each_s)
    learned._longest_wait_s = 0.25
    while not learned.full:
        inside.append(let_in(learned))
    assert len(inside) == pytest.approx(most, abs=1)


def test_a_quiet_server_does_not_take_the_time_between_calls_for_work() -> None:
    clock = Clock()
    admission = Admission(1000, 0.25, clock)
    for _ in range(1000):
        with admission.place():
            clock.now_s += 0.1
        clock.now_s += 60
    burst = [let_in(admission) for _ in range(200)]
    assert admission.taken == len(burst) == 200


def test_after_a_slow_spell_a_quiet_server_takes_in_calls_of_little_patience() -> None:
    clock = Clock()
    admission = Admission(1000, 0.25, clock)
    inside = in_turn(admission, clock, calls=32, answers=1000, each_s=0.5)
    assert admission.wait_s > 10
    inside.pop().close()
    assert admission.wait_s == 0  # so few are let in however long they take
    for each in inside:
        each.close()


def test_quick_answers_to_few_callers_end_what_was_learned_of_a_slow_spell() -> None:
    clock = Clock()
    admission = Admission(1000, 0.25, clock)
    for each in in_turn(admission, clock, calls=32, answers=1000, each_s=0.5):
        each.close()
    for _ in range(2000):
        batch = [let_in(admission) for _ in range(4)]
        clock.now_s += 0.004
        for each in batch:
            each.close()
        clock.now_s += 60
    burst = [let_in(admission) for _ in range(100)]
    # A batch of four at once took four milliseconds: not three times nothing and once four.
    assert admission.wait_s == pytest.approx(len(burst) * 0.001, rel=0.01)


def test_slow_answers_to_few_callers_teach_nothing() -> None:
    clock = Clock()
    admission = Admission(1000, 10.0, clock)
    inside = in_turn(admission, clock, calls=40, answers=2000, each_s=0.002)
    for each in inside[1:]:
        each.__exit__(TimeoutError, TimeoutError(), None)
    for _ in range(500):  # never empty, and asked now and then
        with admission.place():
            clock.now_s += 0.001
        clock.now_s += 1
    more = [let_in(admission) for _ in range(39)]
    assert admission.wait_s == pytest.approx((1 + len(more)) * 0.002, rel=0.02)


def test_calls_that_leave_unanswered_teach_nothing() -> None:
    clock = Clock()
    admission = Admission(1000, 0.25, clock)
    inside = in_turn(admission, clock, calls=40, answers=3000, each_s=0.002)
    for _ in range(3000):
        inside.append(let_in(admission))
        with pytest.raises(TimeoutError), admission.place():
            raise TimeoutError
        inside.pop().__exit__(TimeoutError, TimeoutError(), None)
    assert admission.wait_s == pytest.approx(40 * 0.002, rel=0.01)
