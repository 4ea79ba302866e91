"""Histories that grow, against the plainest thing that could do the same."""

import gc
import sys
import threading
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kg.snapshot import Histories
from kg.vocabulary import Vocabulary
from server.histories import Interaction, LiveHistories
from tests.server.shop import Shop

LIMIT = 5
NAN = float("nan")

ALL = 1_000_000

moments = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 12)), max_size=30)


def appended(shop: Shop, user_id: str, events: list[tuple[int, int, int]]) -> tuple[LiveHistories, list[Interaction]]:
    """Return histories with events of one user, and all that the user did, by time."""
    histories = LiveHistories(shop.snapshot, LIMIT)
    stored = histories.whole(user_id, ALL)
    begin = int(stored.at_ms[0]) if len(stored.at_ms) else 0
    did = [Interaction(*each, NAN) for each in zip(stored.product_index, stored.type, stored.at_ms, strict=True)]
    for product, kind, at in events:
        step = 86_400_000 // 2  # some come before what the snapshot has, some at the very same moment
        interaction = Interaction(product, kind, begin + at * step, NAN, position=len(did))
        histories.append(f"event-{len(did)}", user_id, interaction)
        histories.append(f"event-{len(did)}", user_id, interaction)  # the same one
        did.append(interaction)
    return histories, sorted(did, key=lambda each: each.at_ms)


@given(events=moments, user=st.sampled_from(["user-01", "stranger"]))
def test_late_early_and_repeated_events_find_their_place(
    shop: Shop, events: list[tuple[int, int, int]], user: str
) -> None:
    histories, did = appended(shop, user, events)
    for found, wanted in ((histories.latest(user, ALL), did[-LIMIT:]), (histories.whole(user, ALL), did)):
        told = zip(found.product_index.tolist(), found.type.tolist(), found.at_ms.tolist(), strict=True)
        assert list(told) == [(each.product_index, each.type, each.at_ms) for each in wanted]
    assert histories.length(user) == len(did)
    assert Counter(set(histories.seen(user, ALL).tolist())) == Counter({int(each.product_index) for each in did})
    stored = LiveHistories(shop.snapshot, LIMIT).whole(user, ALL)
    frozen = [Interaction(*each, NAN) for each in zip(stored.product_index, stored.type, stored.at_ms, strict=True)]
    assert all(histories.holds(user, each) for each in frozen)
    assert not histories.holds(user, Interaction(4, 1, 7, NAN))
    assert frozen or not any(histories.holds(user, each) for each in did)


def test_events_are_nothing_that_the_collector_of_cycles_looks_through(shop: Shop) -> None:
    histories = LiveHistories(shop.snapshot, LIMIT)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        histories.append(f"event-{number}", f"guest-{number % 10}", Interaction(number % 5, 1, number, NAN))
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_of_too_many_events_on_unknown_products_the_oldest_go_one_by_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.histories._MOST_WAITING", 3)
    histories = LiveHistories(shop.snapshot, LIMIT)
    with capture_logs() as logged:
        for number, product_id in enumerate(["hot", "other", "hot", "hot", "hot"]):
            histories.wait(f"event-{number}", f"guest-{number}", product_id, Interaction(-1, 0, number, NAN))
    assert [each["event"] for each in logged] == ["waiting_events_dropped"]
    histories.forget(["guest-3"])
    histories.wait("event-5", "guest-5", "other", Interaction(-1, 0, 5, NAN))
    histories.joined(Vocabulary(pa.array(["hot", "other"])))
    assert [number for number in range(6) if histories.length(f"guest-{number}")] == [2, 4, 5]


def test_what_is_told_only_now_comes_after_what_is_stored_of_that_moment(shop: Shop) -> None:
    histories, did = appended(shop, "user-01", [(3, 0, 100)])
    now = Interaction(4, 1, did[-1].at_ms, NAN)
    assert histories.latest("user-01", ALL, [now]).product_index.tolist()[-2:] == [3, 4]
    assert np.array_equal(
        histories.latest("user-01", ALL).product_index, histories.whole("user-01", ALL).product_index[-LIMIT:]
    )


def test_who_knows_fewer_products_is_told_of_those(shop: Shop) -> None:
    histories, did = appended(shop, "user-01", [(3, 0, 100), (len(shop.snapshot.products), 0, 101)])
    known = [each.product_index for each in did if each.product_index < len(shop.snapshot.products)]
    latest = histories.latest("user-01", len(shop.snapshot.products))
    assert latest.product_index.tolist() == known[1 - LIMIT :]
    assert latest.offsets.tolist() == [0, len(latest.product_index)]
    assert set(histories.seen("user-01", len(shop.snapshot.products)).tolist()) == set(known)
    assert histories.latest("user-01", ALL).product_index[-1] == len(shop.snapshot.products)


def test_of_a_long_history_every_product_is_told_once(shop: Shop) -> None:
    generator, events, products = np.random.default_rng(3), 200_000, 2_000
    lengths = np.zeros(len(shop.snapshot.users), np.int64)
    lengths[[3, 5]] = events, 7
    had = generator.integers(products, size=events + 7, dtype=np.int32)
    nothing = np.zeros(len(had))
    stored = Histories(
        np.append(0, lengths.cumsum()), had, nothing.astype(np.int8), nothing.astype(np.int64), nothing.astype("f4")
    )
    histories = LiveHistories(replace(shop.snapshot, histories=stored), LIMIT)
    guest, other = shop.snapshot.users.ids([3, 5])
    for _ in range(2):
        seen = histories.seen(guest, ALL)
        assert len(seen) <= products
        assert set(seen.tolist()) == set(had[:events].tolist())
    assert histories.seen(other, ALL).tolist() == had[events:].tolist()
    histories.append("event", guest, Interaction(products, 0, 0, NAN))
    assert set(histories.seen(guest, ALL).tolist()) == {*had[:events].tolist(), products}
    assert (histories.reaches(guest, products), histories.reaches(guest, products + 1)) == (True, False)
    histories.forget([guest])
    assert len(histories.seen(guest, ALL)) == 0


class _Copies:
    def forget(self, user_id: str) -> None: ...


def test_who_comes_to_keep_copies_while_a_user_is_forgotten_does_not_keep_that_from_being_done(shop: Shop) -> None:
    histories, begun, done = LiveHistories(shop.snapshot, LIMIT), threading.Event(), threading.Event()
    others = [_Copies() for _ in range(200)]
    for each in others:
        histories.copied_by(each)

    def come_and_go() -> None:
        there: deque[_Copies] = deque(maxlen=50)
        while not done.is_set():
            there.append(_Copies())
            histories.copied_by(there[-1])
            begun.set()

    coming, interval = threading.Thread(target=come_and_go), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        coming.start()
        assert begun.wait(60)
        for _ in range(10_000):
            histories.forget(["user-03"])
    finally:
        done.set()
        coming.join()
        sys.setswitchinterval(interval)


def test_a_user_is_forgotten_first_and_then_the_copies(shop: Shop) -> None:
    lengths: list[int] = []

    class Copies(_Copies):
        def forget(self, user_id: str) -> None:
            lengths.append(histories.length(user_id))

    histories, copies = LiveHistories(shop.snapshot, LIMIT), Copies()
    histories.copied_by(copies)
    assert histories.length("user-03") > 0
    histories.forget(["user-03"])
    assert lengths == [0]
