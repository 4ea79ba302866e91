"""Histories that come into service beside others: what is written and erased while they are made is not missed."""

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kg.erasure import Erasure, erase_user, user_key
from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.store import Graph
from kg.tables import InteractionType
from server.catching_up import CatchingUp, erased_in, with_keys
from server.config import ServeSettings
from server.contract import WrittenEvent
from server.drain import Drain
from server.engine import Engine
from server.engine_loading import EngineLoader, Places
from server.erasing import Eraser
from server.graph_link import GraphLink
from server.histories import Interaction, LiveHistories
from server.journal import Journal
from server.journal_file import StoredEvent
from server.journal_users import Found
from server.memory import Memory, extend, replay
from server.models import ModelFolder
from server.serving import Serving
from server.shadow import Shadow
from server.traffic import Traffic
from tests.kg import small_tables
from tests.server.running import activate
from tests.server.shop import Shop, tables, train_shortly
from tests.waiting import until

NOW_MS = 1_800_000_000_000


def written(event_id: str, user_id: str) -> WrittenEvent:
    return WrittenEvent(event_id, user_id, "product-02", InteractionType.VIEW, NOW_MS, None)


def swapped(home: Path, shop: Shop, meanwhile: Callable[[Journal], None], monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Put a model on another snapshot beside one with a shadow; `meanwhile` is called once its histories are made."""
    other = freeze(tables(60))
    other.save(home / "snapshots" / "other")
    version = train_shortly(home / "artifacts", other, seed=4)
    load = EngineLoader.load

    def loaded(loader: EngineLoader, model_version: str, journal: Journal, beside: Sequence[Engine]) -> Engine:
        engine = load(loader, model_version, journal, beside)
        if model_version == version:
            meanwhile(journal)
        return engine

    async def run() -> Serving:
        serving = Serving(ServeSettings(), Places(ModelFolder(home / "artifacts"), home / "snapshots", home / "cache"))
        journal = Journal(home / "journal.db")
        journal.append([written("before", "user-03"), written("other", "user-05")]).result(10)
        first = Traffic(shop.versions[0]).with_trials((), shop.versions[1])
        await serving.change_traffic(lambda _: first, journal)
        monkeypatch.setattr(EngineLoader, "load", loaded)
        await activate(serving, version, journal)
        serving.close()
        journal.close()
        return serving

    return asyncio.run(run())


@pytest.mark.parametrize("step", ["intended", "erased", "finished"])
def test_who_is_erased_while_a_model_is_loaded_does_not_come_into_service_with_it(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def erase(journal: Journal) -> None:
        journal.intend_erasure("user-03")
        if step != "intended":
            journal.erase("user-03").result(10)
        if step == "finished":
            journal.append([written("later", "user-03")]).result(10)
            journal.finish_erasure(Erasure(user_key("user-03"), 7, NOW_MS))

    ((histories, _),) = swapped(home, shop, erase, monkeypatch).histories()
    # What the journal still has of the user goes when the erasure goes on, which reaches these histories then.
    assert histories.length("user-03") == (0 if step == "erased" else 1)
    assert histories.length("user-05") > 6


def test_an_event_that_is_written_while_a_shadow_ends_is_in_the_new_histories(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals: list[Journal] = []
    close = Shadow.close

    async def closed(shadow: Shadow) -> None:
        await close(shadow)
        journals[0].append([written("late", "stranger")]).result(10)

    monkeypatch.setattr(Shadow, "close", closed)
    ((histories, _),) = swapped(home, shop, journals.append, monkeypatch).histories()
    assert histories.length("stranger") == 1


def test_an_erasure_that_ends_while_the_journal_is_read_is_not_missed(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def loaded(journal: Journal) -> None:
        journal.intend_erasure("user-03")
        journal.erase("user-03").result(10)
        for name in ("erasures", "pending_erasures"):
            monkeypatch.setattr(journal, name, partial(ended_before_another_read, journal, name))

    def ended_before_another_read(journal: Journal, name: str) -> Any:
        reads.append(name)
        if len(set(reads)) == 2:
            journal.finish_erasure(Erasure(user_key("user-03"), 7, NOW_MS))
        return getattr(Journal, name)(journal)

    ((histories, _),) = swapped(home, shop, loaded, monkeypatch).histories()
    assert len(set(reads)) == 2
    assert histories.length("user-03") == 0


@pytest.mark.neo4j
@pytest.mark.parametrize("when", ["beside it", "after it"])
def test_histories_that_come_while_another_server_s_erasure_is_followed_are_not_missed(
    tmp_path: Path, shop: Shop, graph: Graph, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    graph.load(tables())
    erase_user(graph, "user-03")  # as another server does
    engine: Any = type("Answering", (), {"snapshot": shop.snapshot})()
    held: list[tuple[LiveHistories, Engine]] = []
    came = LiveHistories(shop.snapshot, 10)

    def looked_for(*asked: Any) -> set[str]:
        if when == "beside it":
            held.append((came, engine))
        return with_keys(*asked)

    monkeypatch.setattr("server.erasing.with_keys", looked_for)
    forgetting: list[str] = []
    journal = Journal(tmp_path / "journal.db", on_erase=lambda user_id, left: forgetting.append(user_id))
    memory = Memory(lambda: held, journal)

    async def run() -> None:
        def opening(graph: Graph) -> None:
            eraser.reconcile(graph)
            if when == "after it":  # they had read the journal before
                held.append((came, engine))

        loop = asyncio.get_running_loop()

        def opened() -> None:
            loop.call_soon_threadsafe(eraser.graph_opened)

        link: GraphLink[Graph] = GraphLink(lambda: nullcontext(graph), opening, opened)
        eraser = Eraser(journal, Drain(journal, lambda: nullcontext(graph)), link, memory, tmp_path)
        link.start()
        await asyncio.to_thread(until, lambda: forgetting != [])
        await asyncio.to_thread(link.close)
        await eraser.stop()

    asyncio.run(run())
    journal.close()
    assert forgetting == ["user-03"]


def exported_since(tmp_path: Path, product_id: str) -> tuple[Snapshot, Journal, LiveHistories]:
    """Return what ann did after an erasure, in a snapshot, and histories of it with what she did before, in a journal.

    Args:
        tmp_path: for the journal.
        product_id: what she looked at before the erasure.
    """
    came_back = small_tables.event("e2", "ann", "product-02", at_ms=9)
    products = [{"product_id": "product-02"}]
    snapshot = freeze(small_tables.tables(products=products, interactions=[came_back]), commit=1_000_000)
    journal = Journal(tmp_path / "journal.db")
    before = WrittenEvent("e1", "ann", product_id, InteractionType.VIEW, 5, None)
    journal.append([before, written("other", "bob")]).result(10)
    histories = LiveHistories(snapshot, 10)
    replay(histories, snapshot, journal, 0)
    assert "ann" in set(histories.added_users())
    return snapshot, journal, histories


def answering(snapshot: Snapshot) -> Any:
    return type("Answering", (), {"snapshot": snapshot})()


@pytest.mark.parametrize("product_id", ["product-02", "later"], ids=["in a history", "waiting"])
@pytest.mark.parametrize("back", [False, True], ids=["gone", "back here, too"])
def test_what_the_journal_had_of_someone_erased_before_a_snapshot_does_not_come_with_it(
    tmp_path: Path, product_id: str, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, journal, histories = exported_since(tmp_path, product_id)
    journal.erase("ann").result(10)
    if back:
        in_both = WrittenEvent("e2", "ann", "product-02", InteractionType.PURCHASE, 9, None)
        journal.append([in_both, written("e3", "ann")]).result(10)
    journal.finish_erasure(Erasure(user_key("ann"), 5, NOW_MS))
    coming, searched, find = CatchingUp([(histories, answering(snapshot))], journal), [], journal.find

    def counted(user_ids: Collection[str]) -> Found:
        searched.append(set(user_ids))
        return find(user_ids)

    monkeypatch.setattr(journal, "find", counted)
    for _ in range(2):
        asyncio.run(coming.catch_up())
        assert searched == [{"ann"}], "the whole journal, once"
        assert histories.length("ann") == (2 if back else 1)
        assert ("ann" in set(histories.added_users())) == back
        assert histories.length("bob") == 1
    journal.close()


def test_the_event_loop_is_left_with_little_of_what_was_written_meanwhile(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, histories = Journal(tmp_path / "journal.db"), LiveHistories(shop.snapshot, 10)
    before = histories.length("user-03")
    journal.append([written(f"e-{number}", f"guest-{number % 7}") for number in range(20_000)]).result(60)
    taken: dict[bool, list[int]] = {True: [], False: []}  # offsets, by whether the loop itself took them

    def taking(histories: LiveHistories, snapshot: Snapshot, events: Sequence[StoredEvent]) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        if not in_loop and not taken[False]:  # more comes and goes while the first ones are taken
            journal.append([written(f"late-{number}", "late") for number in range(50)]).result(60)
            journal.intend_erasure("guest-3")
            journal.erase("guest-3").result(60)
            journal.append([written("back", "guest-3")]).result(60)
            journal.finish_erasure(Erasure(user_key("guest-3"), shop.snapshot.commit + 1, NOW_MS))
        extend(histories, snapshot, events)
        if in_loop and not taken[True]:
            journal.append([written("last", "user-03")]).result(60)
        taken[in_loop] += [each.offset for each in events]

    monkeypatch.setattr("server.catching_up.extend", taking)
    coming = CatchingUp([(histories, answering(shop.snapshot))], journal)
    asyncio.run(coming.catch_up())
    asyncio.run(coming.catch_up())
    assert len(taken[True]) <= 100
    assert [*taken[False], *taken[True]] == sorted({*taken[False], *taken[True]})
    lengths = [histories.length(user) - old for user, old in (("guest-2", 0), ("guest-3", 0), ("late", 0))]
    assert lengths == [20_000 // 7, 1, 50]
    assert histories.length("user-03") == before + 1
    journal.close()


@pytest.mark.neo4j
def test_histories_that_came_beside_an_erasure_from_before_their_snapshot_are_looked_at_until_it_is_done(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.erasing._FIRST_RETRY_S", 0.05)
    graph.load(small_tables.SMALL)
    snapshot, journal, came = exported_since(tmp_path, "product-02")
    erasure, _ = erase_user(graph, "ann")  # as another server does
    assert erasure.commit < snapshot.commit
    held: list[tuple[LiveHistories, Engine]] = []

    def looked_for(*asked: Any) -> set[str]:
        held.append((came, answering(snapshot)))
        return with_keys(*asked)

    monkeypatch.setattr("server.erasing.with_keys", looked_for)
    link: GraphLink[Graph] = GraphLink(lambda: nullcontext(graph))
    memory = Memory(lambda: held, journal)
    eraser = Eraser(journal, Drain(journal, lambda: nullcontext(graph)), link, memory, tmp_path)
    eraser.reconcile(graph)
    assert came.length("ann") == 2

    async def run() -> None:
        async with asyncio.timeout(60):
            with capture_logs() as logged:
                eraser.graph_opened()
                while not any(each["event"] == "erasure_waits" for each in logged):  # the graph is away again
                    await asyncio.sleep(0.01)
                link.start()
                while came.length("ann") == 2:
                    await asyncio.sleep(0.01)
            await eraser.stop()

    asyncio.run(run())
    link.close()
    journal.close()
    assert (came.length("ann"), came.length("bob")) == (1, 1)
    assert memory.followed < snapshot.commit - 1, "what came after the erasure may be with other servers"


def test_erased_users_are_looked_for_among_many_without_making_every_key_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = LiveHistories(shop.snapshot, 10)
    known = set(shop.snapshot.users.array.to_pylist())
    for place, user_id in enumerate([*known, "new-1", "new-2"]):
        histories.append(f"e-{place}", user_id, Interaction(0, 0, NOW_MS, 1.0))
    made: list[str] = []

    def counted(user_id: str) -> str:
        made.append(user_id)
        return user_key(user_id)

    for module in ("kg.user_keys", "server.catching_up"):
        monkeypatch.setattr(f"{module}.user_key", counted)
    after, before = (partial(Erasure, commit=histories.commit + by, at_ms=0) for by in (1, 0))
    erasures = [after(user_key("user-03")), before(user_key("user-04")), before(user_key("new-1"))]
    found = {"user-03"}, {"user-04", "new-1"}
    assert erased_in(histories, erasures) == found
    assert known <= set(made)
    made.clear()
    assert erased_in(histories, erasures) == found
    assert set(made) == {"user-03", "user-04", "new-1", "new-2"}, "those who are found, and those who are new"
    assert made.count("new-2") == 1
