"""Snapshots that are rewritten for erased users: whom that keeps waiting, and what is left when a server leaves."""

import asyncio
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from kg.erasure import Erasure, erase_user, erasures_since, user_key
from kg.errors import SnapshotError
from kg.freeze import freeze
from kg.redaction import redact, redact_all
from kg.store import Graph
from server.errors import ErasureWaitsError, NotServingError
from server.journal import Journal
from server.redacting import Redacting
from tests.kg.small_tables import event, tables
from tests.server.test_erasures_of_others import erasing, in_loop, there, write
from tests.waiting import until

FOUR = ["ann", "bob", "carl", "dora"]


class Slow:
    """Rewrites snapshots when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.fails = False
        self.taken: list[set[str]] = []
        monkeypatch.setattr("server.redacting.redact_all", self._redact_all)

    def _redact_all(self, _: Path, erasures: Collection[Erasure], *__: Any) -> int:
        self.taken.append({each.user_key for each in erasures})
        assert self.go_on.wait(60)
        if self.fails:
            raise SnapshotError("snapshot of-then is damaged", "Remove it.")
        return 0


@pytest.mark.neo4j
def test_nobody_waits_for_the_graph_while_snapshots_are_rewritten_and_that_is_done_once_for_all(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event(f"e-{each}", each, "a") for each in FOUR]))
    slow = Slow(monkeypatch)
    with erasing(tmp_path, graph) as (journal, eraser):

        async def erase() -> None:
            erased = [asyncio.create_task(eraser.erase(each)) for each in FOUR]
            while len(await eraser._link.run(lambda graph: erasures_since(graph, 0))) < len(FOUR):
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(eraser._link.run(lambda graph: graph.read("RETURN 1")), 20) == [[1]]
            while sum(map(len, slow.taken)) + len(eraser._redacting._waiting) < len(FOUR):
                await asyncio.sleep(0.01)
            assert sorted(journal.pending_erasures()) == FOUR, "an erasure ends once the snapshots are rewritten"
            slow.go_on.set()
            assert [each.interactions for each in await asyncio.gather(*erased)] == [1] * len(FOUR)
            await eraser.stop()

        in_loop(eraser, erase)
        assert journal.pending_erasures() == []
    assert len(slow.taken) <= 2
    assert set[str]().union(*slow.taken) == {user_key(each) for each in FOUR}


@pytest.mark.neo4j
def test_a_server_that_leaves_waits_for_no_rewriting_and_leaves_the_rest_to_its_next_start(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    slow = Slow(monkeypatch)
    with erasing(tmp_path, graph) as (journal, eraser):

        async def leave() -> None:
            first = asyncio.create_task(eraser.erase("ann"))
            await asyncio.to_thread(until, lambda: slow.taken != [])
            second = asyncio.create_task(eraser.erase("bob"))
            await asyncio.to_thread(until, lambda: len(erasures_since(graph, 0)) == 2)
            await asyncio.wait_for(eraser.stop(), 20)
            with pytest.raises(ErasureWaitsError, match="the server left"):
                await second
            slow.go_on.set()
            await first

        in_loop(eraser, leave)
        eraser.close()
        assert journal.pending_erasures() == ["bob"]
    with erasing(tmp_path, graph) as (journal, eraser):
        eraser.reconcile(graph)
        assert journal.pending_erasures() == []
    assert slow.taken[0] == {user_key("ann")}
    assert slow.taken[-1] == {user_key("ann"), user_key("bob")}


@pytest.mark.neo4j
def test_what_other_servers_tell_of_goes_on_while_snapshots_are_rewritten(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    slow = Slow(monkeypatch)
    with erasing(tmp_path, graph) as (journal, eraser):
        write(journal, "old-life")
        erased, _ = erase_user(graph, "ann")  # as another server does

        async def follow() -> None:
            await asyncio.wait_for(eraser.follow(graph.changes_since(0)), 20)
            assert (there(journal), journal.erasures()) == ([], [erased])
            await asyncio.to_thread(until, lambda: slow.taken == [{erased.user_key}])
            slow.go_on.set()
            await eraser.stop()

        in_loop(eraser, follow)
        eraser.close()
    with erasing(tmp_path, graph) as (_, eraser):
        eraser.redact_snapshots()
    assert slow.taken[1:] == [{erased.user_key}], "a start does what a server that left has not"


@pytest.mark.neo4j
def test_a_graph_is_taken_up_while_snapshots_are_rewritten_for_others_erasures(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased, _ = erase_user(graph, "ann")
    slow = Slow(monkeypatch)
    with erasing(tmp_path, graph) as (journal, eraser):
        reconciled = threading.Thread(target=eraser.reconcile, args=(graph,), daemon=True)
        reconciled.start()
        reconciled.join(20)
        assert (reconciled.is_alive(), journal.erasures()) == (False, [erased])
        slow.go_on.set()
        eraser.close()


@pytest.mark.neo4j
@pytest.mark.parametrize("fails", [False, True], ids=["snapshots rewritten", "a snapshot damaged"])
def test_an_erasure_that_is_asked_for_while_the_one_before_is_finished_is_done_too(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("server.erasing._FIRST_RETRY_S", 0.05)
    graph.load(tables(products=[{"product_id": "a"}]))
    slow = Slow(monkeypatch)
    slow.fails = fails
    with erasing(tmp_path, graph) as (journal, eraser):
        journal.intend_erasure("ann")

        async def ask_again() -> None:
            eraser._put_off("ann")
            await asyncio.to_thread(until, lambda: slow.taken != [])
            first_ms = journal.intended_ms("ann") or 0
            until(lambda: time.time_ns() // 1_000_000 > first_ms)
            write(journal, "came-back")
            journal.intend_erasure("ann")
            slow.go_on.set()
            await asyncio.to_thread(until, lambda: journal.pending_erasures() == [])
            assert there(journal) == []
            await eraser.stop()

        in_loop(eraser, ask_again)


@pytest.mark.neo4j
def test_an_erasure_whose_clock_went_back_on_the_way_is_crossed_out_all_the_same(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    with erasing(tmp_path, graph) as (journal, eraser):
        intend = journal.intend_erasure

        def ahead(user_id: str) -> None:
            intend(user_id)
            with journal.connection() as connection:
                connection.execute("UPDATE intention SET at_ms = at_ms + 60000")

        monkeypatch.setattr(journal, "intend_erasure", ahead)

        async def erase() -> None:
            await eraser.erase("ann")
            await eraser.stop()

        in_loop(eraser, erase)
        assert journal.pending_erasures() == []


def test_a_server_that_leaves_ends_between_two_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = tmp_path / "snapshots"
    for each in ("bob", "carl"):
        rows = [event("e1", "ann", "a"), event("e2", each, "a")]
        snapshot = freeze(tables(products=[{"product_id": "a"}], interactions=rows), commit=1)
        snapshot.save(snapshots / each)
    journal = Journal(tmp_path / "journal.db")
    redacting = Redacting(snapshots, journal)

    def leaving(*asked: Any) -> bool:
        redacting.leave()
        return redact(*asked)

    monkeypatch.setattr("kg.redaction.redact", leaving)
    ann = Erasure(user_key("ann"), 2, 5)
    with pytest.raises(NotServingError, match="the server left"):
        redacting.redact([ann]).result(20)
    redacting.close()
    assert redact_all(snapshots, [ann]) == 1, "one of the two was done"
    journal.close()


def test_what_comes_after_the_end_is_told_so_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    redacting = Redacting(tmp_path / "snapshots", journal)
    assert redacting.redact(()).result(20)
    redacting.close()
    with pytest.raises(NotServingError):
        redacting.redact(()).result(20)
    journal.close()


def test_a_defect_is_told_to_all_who_wait_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.db")
    redacting = Redacting(tmp_path / "snapshots", journal)
    with monkeypatch.context() as patched:
        patched.delattr("server.redacting.redact_all")
        with pytest.raises(NameError):
            redacting.redact(()).result(20)
    assert not redacting.redacted
    assert redacting.redact(()).result(20)
    redacting.close()
    journal.close()
