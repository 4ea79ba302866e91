import itertools
import time

from server.company import Company


def seconds(company: Company, waiting: list[int]) -> float:
    """Return how long a transaction waits while so many callers are seen at each look, the last ones for ever."""
    seen = itertools.chain(waiting, itertools.repeat(waiting[-1]))
    began = time.perf_counter()
    company.wait(lambda: next(seen))
    return time.perf_counter() - began


def after(callers: int, took_s: float) -> Company:
    company = Company()
    company.wrote(callers, took_s)
    return company


def test_few_writers_wait_for_nobody() -> None:
    looks: list[int] = []
    after(16, 1.0).wait(lambda: looks.append(0) or 3)
    assert len(looks) == 1


def test_many_wait_until_those_of_the_last_transaction_are_back() -> None:
    looks = itertools.count(20, 20)
    company = after(64, 10.0)
    company.wait(lambda: next(looks))
    assert next(looks) == 80, "the third look showed 60 of 64"


def test_who_stays_away_is_not_waited_for_longer_than_the_last_transaction_allows() -> None:
    assert seconds(after(64, 0.001), [20]) >= 0.006
    assert 0.025 <= seconds(after(64, 10.0), [20]) < 5


def test_more_than_last_time_wait_for_nobody() -> None:
    looks: list[int] = []
    after(3, 1.0).wait(lambda: looks.append(0) or 40)
    assert len(looks) == 1
