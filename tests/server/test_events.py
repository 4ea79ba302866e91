import asyncio
import gc
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from kg.freeze import freeze
from kg.tables import InteractionType
from kgrank.client import Client, event
from kgrank.errors import NotFoundError
from kgrank.v1 import common_pb2
from kgrank.v1.event_service_pb2 import EventOutcome
from server.contract import WrittenEvent
from server.journal import Journal
from server.journal_insert import Stored
from server.services.events import _told
from tests.server.running import running
from tests.server.shop import NO_CHANGE, Shop, tables, train_shortly


def test_an_event_changes_the_next_answer(client: Client) -> None:
    before = client.recommend("event-user-1", k=5)
    client.write_event(event("event-user-1", "product-02", "purchase"))
    after = client.recommend("event-user-1", k=90)
    assert before.user_state == common_pb2.USER_STATE_COLD
    assert after.user_state == common_pb2.USER_STATE_FEW_EVENTS
    assert "product-02" not in {result.product_id for result in after.results}
    assert [each.score for each in after.results[:5]] != [each.score for each in before.results]


def test_an_event_changes_the_answer_of_a_user_whose_vector_is_kept(client: Client) -> None:
    client.write_events([event("event-user-7", f"product-{number:02}", "purchase") for number in (2, 5, 8)])
    for _ in range(2):
        before = client.recommend("event-user-7", k=90, exclude_seen=False)
    best = before.results[0].product_id
    client.write_event(event("event-user-7", best, "purchase"))
    after = client.recommend("event-user-7", k=90, exclude_seen=False)
    assert after.results != before.results


def test_the_same_event_id_is_applied_once(client: Client) -> None:
    same = event("event-user-2", "product-03", "purchase", event_id="event-2")
    assert client.write_event(same).status == EventOutcome.STATUS_WRITTEN
    assert client.write_event(same).status == EventOutcome.STATUS_DUPLICATE
    twice = client.write_events([same, event("event-user-2", "product-04", event_id="event-2b"), same])
    assert [outcome.status for outcome in twice] == [
        EventOutcome.STATUS_DUPLICATE,
        EventOutcome.STATUS_WRITTEN,
        EventOutcome.STATUS_DUPLICATE,
    ]


def test_an_event_without_an_id_is_given_one(served: str) -> None:
    import grpc

    from kgrank.v1.event_service_pb2 import WriteEventRequest
    from kgrank.v1.event_service_pb2_grpc import EventServiceStub

    with grpc.insecure_channel(served) as channel:
        request = WriteEventRequest(event=event("event-user-3", "product-03"))
        first, second = (EventServiceStub(channel).WriteEvent(request, timeout=10).outcome for _ in range(2))
    assert len({first.event_id, second.event_id, ""}) == 3


def test_unknown_products_are_told_and_not_stored(client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.write_event(event("event-user-4", "ghost"))
    outcomes = client.write_events([event("event-user-4", "ghost"), event("event-user-4", "product-05")])
    assert [outcome.status for outcome in outcomes] == [
        EventOutcome.STATUS_UNKNOWN_PRODUCT,
        EventOutcome.STATUS_WRITTEN,
    ]
    assert client.recommend("event-user-4").user_state == common_pb2.USER_STATE_FEW_EVENTS


def test_what_a_model_on_trial_recommends_can_be_written_of(home: Path, shop: Shop) -> None:
    larger = freeze(tables(95))
    larger.save(home / "snapshots" / "larger")
    trial = train_shortly(home / "artifacts", larger, seed=4)
    with running(home) as server, Client(server.target) as client:
        client.activate_model(f"models/{shop.versions[0]}")
        client.set_traffic({f"models/{trial}": 100})
        assert "product-94" in {each.product_id for each in client.recommend("tried", k=95).results}
        assert client.write_event(event("tried", "product-94", "purchase")).status == EventOutcome.STATUS_WRITTEN
        (outcome,) = client.write_events([event("tried", "product-94")])
        assert outcome.status == EventOutcome.STATUS_WRITTEN
        with pytest.raises(NotFoundError):
            client.write_event(event("tried", "product-95"))
        assert client.recommend("tried", k=5).user_state == common_pb2.USER_STATE_FEW_EVENTS


def test_an_event_that_is_stored_is_a_duplicate_also_where_its_product_is_gone(home: Path) -> None:
    bought = event("faithful", "product-07", "purchase", event_id="bought")
    with running(home) as server, Client(server.target) as client:
        assert client.write_event(bought).status == EventOutcome.STATUS_WRITTEN
        gone = server.server._serving.catalogue_changed(replace(NO_CHANGE, deleted=("product-07",)))
        assert asyncio.run_coroutine_threadsafe(gone, server.loop).result(60)
        assert client.write_event(bought).status == EventOutcome.STATUS_DUPLICATE
        outcomes = client.write_events([event("faithful", "product-07"), bought, event("faithful", "product-08")])
        assert [outcome.status for outcome in outcomes] == [
            EventOutcome.STATUS_UNKNOWN_PRODUCT,
            EventOutcome.STATUS_DUPLICATE,
            EventOutcome.STATUS_WRITTEN,
        ]
        with pytest.raises(NotFoundError):
            client.write_event(event("faithful", "product-07", event_id="another"))


def test_a_late_event_takes_its_place_by_time(client: Client) -> None:
    now_ms = time.time_ns() // 1_000_000
    for user, ages in (("event-user-5", (3, 2, 1)), ("event-user-6", (1, 3, 2))):
        products = {3: "product-30", 2: "product-31", 1: "product-32"}
        client.write_events([event(user, products[age], "purchase", at_ms=now_ms - age * 86_400_000) for age in ages])
    in_order, shuffled = (client.recommend(user, k=10).results for user in ("event-user-5", "event-user-6"))
    assert [each.product_id for each in in_order] == [each.product_id for each in shuffled]


def test_events_are_there_after_a_restart(home: Path) -> None:
    with running(home) as first, Client(first.target) as client:
        client.write_event(event("returning", "product-02", "purchase", event_id="kept"))
        before = client.recommend("returning", k=5)
    with running(home) as second, Client(second.target) as client:
        after = client.recommend("returning", k=5)
        again = client.write_event(event("returning", "product-02", "purchase", event_id="kept"))
    assert after.user_state == common_pb2.USER_STATE_FEW_EVENTS
    assert [each.product_id for each in after.results] == [each.product_id for each in before.results]
    assert again.status == EventOutcome.STATUS_DUPLICATE


def test_a_write_leaves_nothing_that_only_the_collector_of_cycles_frees(home: Path) -> None:
    journal = Journal(home / "journal.db")

    async def write(name: str) -> "weakref.ref[Future[list[Stored]]]":
        future = journal.append([WrittenEvent(name, "user-1", "product-1", InteractionType.CLICK, 1, None)])
        assert [each.event_id for each in await _told(future)] == [name]
        return weakref.ref(future)

    async def write_two() -> "weakref.ref[Future[list[Stored]]]":
        first = await write("one")
        await write("two")  # the writing thread holds the last one
        return first

    gc.disable()
    try:
        assert asyncio.run(write_two())() is None
    finally:
        gc.enable()
        journal.close()


def test_an_event_that_the_snapshot_has_is_not_replayed_into_it(home: Path) -> None:
    from kg.snapshot import Snapshot
    from kg.tables import CODES
    from server.contract import TYPE_OF_CODE, WrittenEvent
    from server.histories import LiveHistories
    from server.memory import replay

    snapshot = Snapshot.open(next(path for path in (home / "snapshots").iterdir() if path.is_dir()))
    row = snapshot.histories.rows(0).start
    known = WrittenEvent(
        "known",
        snapshot.users.id(0),
        snapshot.products.id(int(snapshot.histories.product_index[row])),
        TYPE_OF_CODE[int(snapshot.histories.type[row])],
        int(snapshot.histories.at_ms[row]),
        None,
    )
    journal = Journal(home / "journal.db")
    journal.append([known]).result(10)
    histories = LiveHistories(snapshot, 100)
    replay(histories, snapshot, journal, snapshot.as_of_ms)
    journal.close()
    assert CODES[known.type] == snapshot.histories.type[row]
    assert histories.version(known.user_id) == 0
    assert histories.applied == 1
