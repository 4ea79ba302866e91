"""Erasures that other servers, older graphs and late intentions tell of: what is taken out, and what has come since."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from kg.erasure import Erasure, erase_user, erasures_of, erasures_since, user_key
from kg.store import Graph
from kg.tables import InteractionType
from kgrank.client import Client
from kgrank.errors import ServerUnavailableError
from kgrank.v1 import common_pb2
from server.access.audit import Audit
from server.contract import WrittenEvent
from server.drain import Drain
from server.erasing import Eraser
from server.graph_link import GraphLink
from server.journal import Journal
from server.journal_file import JournalFile
from server.journal_merge import take_in
from server.memory import Memory
from tests.kg.small_tables import event, tables
from tests.server.erasure import files_with, lines_of, shop_server
from tests.server.shop import tables as shop_tables
from tests.waiting import until

ANN = user_key("ann")


@contextmanager
def erasing(
    folder: Path, graph: Graph, name: str = "journal.db", audit: Audit | None = None
) -> Iterator[tuple[Journal, Eraser]]:
    """Yield what erases at a server without a model; its link is open as soon as it is started."""
    journal = Journal(folder / name)
    link: GraphLink[Graph] = GraphLink(lambda: nullcontext(graph))
    memory = Memory(list, journal)
    try:
        drain = Drain(journal, lambda: nullcontext(graph))
        yield journal, Eraser(journal, drain, link, memory, folder / "snapshots", audit)
    finally:
        link.close()
        journal.close()


def in_loop(eraser: Eraser, call: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            eraser._link.start()
            while not eraser._link.is_open:
                await asyncio.sleep(0.01)
            await call()

    asyncio.run(run())


def write(journal: Journal, event_id: str) -> int:
    """Write an event of ann's; return when it was received."""
    journal.append([WrittenEvent(event_id, "ann", "a", InteractionType.PURCHASE, 5, None)]).result(10)
    return max(each.received_ms for each in journal.of_user("ann"))


def there(journal: Journal) -> list[str]:
    return [each.event.event_id for each in journal.of_user("ann")]


def intend(journal: JournalFile) -> int:
    """Write down that ann is to be erased; return when, once that moment is over: what comes then is after it."""
    journal.intend_erasure("ann")
    intended_ms = journal.intended_ms("ann") or 0
    until(lambda: time.time_ns() // 1_000_000 > intended_ms)
    return intended_ms


@pytest.mark.neo4j
def test_who_was_erased_twice_does_not_come_back_with_a_graph_from_in_between(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e1", "ann", "a")]))
    graph.write("CREATE (:Erasure {user: $key, commit: 100, at: 1000}), (:User {id: 5}), (:User)", key=ANN)
    graph.advance_commits(600)
    with erasing(tmp_path, graph) as (journal, eraser):
        journal.finish_erasure(Erasure(ANN, 500, 2_000))
        eraser.reconcile(graph)
        assert graph.read("MATCH (u:User {id: 'ann'}) RETURN count(u)") == [[0]]
        assert [(each.commit > 600, each.at_ms) for each in erasures_since(graph, 0)] == [(True, 2_000)]
        journal.finish_erasure(Erasure(ANN, 100, 1_000))  # as the follower tells of it that begins anew
        assert [(each.commit, each.at_ms) for each in journal.erasures()] == [(500, 2_000)]


@pytest.mark.neo4j
def test_what_was_written_after_an_erasure_survives_a_graph_from_before_it(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e1", "ann", "a")]))
    with erasing(tmp_path, graph) as (journal, eraser), erasing(tmp_path, graph, "other.db") as (other, following):
        received_ms = min(write(journal, "new-life"), write(other, "new-life-there"))
        for known in (journal, other):
            known.finish_erasure(Erasure(ANN, 500, received_ms - 1))
        eraser.reconcile(graph)
        assert graph.read("MATCH (u:User {id: 'ann'}) RETURN count(u)") == [[0]]
        changes = graph.changes_since(0)
        for each in (eraser, following):
            in_loop(each, partial(each.follow, changes))
        assert (there(journal), there(other)) == (["new-life"], ["new-life-there"])
        assert [each.at_ms for each in other.erasures()] == [received_ms - 1]


@pytest.mark.neo4j
@pytest.mark.parametrize("since", [True, False], ids=["erased elsewhere since", "erased elsewhere before"])
def test_an_intention_takes_nothing_that_came_after_it_whoever_carries_it_out(
    tmp_path: Path, graph: Graph, since: bool
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    with erasing(tmp_path, graph) as (journal, eraser):
        write(journal, "old-life")
        # Its graph is away, so that it stays an intention; the caller asks another server.
        journal.intend_erasure("ann")
        intended_ms = journal.intended_ms("ann") or 0
        erased, _ = erase_user(graph, "ann", intended_ms if since else intended_ms - 1)
        until(lambda: time.time_ns() // 1_000_000 > intended_ms)
        write(journal, "new-life")
        eraser.reconcile(graph)
        assert journal.pending_erasures() == []
        assert there(journal) == ["new-life"]
        [kept] = journal.erasures()
        assert (kept == erased) == since
    assert files_with(tmp_path, "old-life") == []


@pytest.mark.neo4j
def test_what_the_graph_took_between_an_intention_and_its_end_is_given_back(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e1", "ann", "a")]))
    with erasing(tmp_path, graph) as (journal, eraser), erasing(tmp_path, graph, "other.db") as (other, following):
        for known, event_id in ((journal, "old-life"), (other, "old-life-there")):
            write(known, event_id)
        intended_ms = intend(journal)
        for known, event_id in ((journal, "new-life"), (other, "new-life-there")):
            write(known, event_id)
            Drain(known, lambda: nullcontext(graph))._take(graph, 0)
        write(journal, "not taken yet")
        offset = graph.journal_offset(journal.name)
        eraser.reconcile(graph)
        assert there(journal) == ["new-life", "not taken yet"]
        assert _of_ann(graph) == ["new-life"]

        async def follow_twice() -> None:
            for _ in range(2):
                await following.follow(graph.changes_since(0))

        in_loop(following, follow_twice)
        assert there(other) == ["new-life-there"]
        assert _of_ann(graph) == ["new-life", "new-life-there"]
        assert graph.journal_offset(journal.name) == offset
        assert [(each.user_key, each.at_ms) for each in erasures_since(graph, 0)] == [(ANN, intended_ms)]


def _of_ann(graph: Graph) -> list[str]:
    found = graph.read("MATCH (:User {id: 'ann'})-[r]->() RETURN r.event_id ORDER BY r.event_id")
    return [event_id for (event_id,) in found]


def test_when_an_erasure_was_intended_is_known_until_it_is_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal-1.db")
    journal.finish_erasure(Erasure(ANN, 5, 1_000))
    journal.intend_erasure("ann")
    intended_ms = journal.intended_ms("ann") or 0
    assert intended_ms > 1_000
    assert [each.at_ms for each in journal.erasures()] == [1_000]
    journal.close()
    JournalFile(tmp_path / "journal.db")
    take_in(tmp_path / "journal.db", tmp_path / "journal-1.db")
    merged = JournalFile(tmp_path / "journal.db")
    assert (merged.pending_erasures(), merged.intended_ms("ann")) == (["ann"], intended_ms)
    merged.finish_erasure(Erasure(ANN, 6, intended_ms + 1))
    assert (merged.pending_erasures(), merged.intended_ms("ann")) == ([], None)


def test_an_erasure_that_ends_late_leaves_what_was_asked_for_after_it(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal.db")
    journal.intend_erasure("ann")
    intended_ms = journal.intended_ms("ann") or 0
    journal.finish_erasure(Erasure(ANN, 5, intended_ms - 1))  # which was asked for before she came back
    assert (journal.pending_erasures(), journal.intended_ms("ann")) == (["ann"], intended_ms)
    assert journal.erasures() == [Erasure(ANN, 5, intended_ms)]
    journal.finish_erasure(Erasure(ANN, 6, intended_ms))
    assert (journal.pending_erasures(), journal.intended_ms("ann")) == ([], None)


@pytest.mark.neo4j
def test_an_erasure_that_was_asked_for_before_another_and_is_done_after_it_lets_nothing_come_back(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    with erasing(tmp_path, graph) as (journal, eraser):
        intend(journal)
        between_ms = write(journal, "between")

        def looked_for(graph: Graph, keys: list[str]) -> dict[str, Erasure]:
            found = erasures_of(graph, keys)
            erase_user(graph, "ann", between_ms)  # as another server does just now, which was asked later
            return found

        monkeypatch.setattr("server.erasing.erasures_of", looked_for)
        eraser.reconcile(graph)
        assert (there(journal), journal.pending_erasures(), _of_ann(graph)) == ([], [], [])
        assert [each.at_ms for each in erasures_since(graph, 0)] == [between_ms]


@pytest.mark.neo4j
def test_what_the_graph_took_before_a_kill_is_given_back_though_nobody_noted_it(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    with erasing(tmp_path, graph) as (journal, eraser):
        intend(journal)
        write(journal, "new-life")
        drain = Drain(journal, lambda: nullcontext(graph))
        offset = drain._take(graph, 0)
        journal.set_drained(0)
        eraser.reconcile(graph)
        assert drain._resume(graph) == offset
        assert (there(journal), _of_ann(graph)) == (["new-life"], ["new-life"])


@pytest.mark.neo4j
def test_a_graph_that_gets_events_back_before_it_has_the_journal_can_be_drained_to(
    tmp_path: Path, graph: Graph
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    with erasing(tmp_path, graph) as (journal, eraser):
        intend(journal)
        write(journal, "new-life")
        journal.note_drained(journal.last_offset)  # to another graph, that a backup has replaced
        eraser.reconcile(graph)
        drain = Drain(journal, lambda: nullcontext(graph))
        assert drain._resume(graph) == 0
        assert drain._take(graph, 0) == journal.last_offset
        assert _of_ann(graph) == ["new-life"]


@pytest.mark.neo4j
def test_a_damaged_snapshot_that_nobody_needs_keeps_nothing_from_being_done(home: Path, graph: Graph) -> None:
    graph.load(shop_tables())
    own = next(path for path in (home / "snapshots").iterdir() if path.is_dir())
    unused = home / "snapshots" / "0-unused"
    unused.mkdir()
    for path in own.iterdir():
        damaged = path.read_bytes().replace(b"user-23", b"user\xff23")
        (unused / path.name).write_bytes(damaged.replace(own.name.encode(), b"0" * len(own.name)))  # of another content
    erase_user(graph, "user-05")  # as another server does
    for user_id in ("user-07", "user-08"):
        with shop_server(home, graph) as (server, client):
            with pytest.raises(ServerUnavailableError, match="can't be rewritten") as unfinished:
                client.erase_user(user_id)
            assert unfinished.value.reason == "ERASURE_UNFINISHED"
            assert server.server._journal.pending_erasures() == []
            assert lines_of(client, "user-09") != []
            for gone in ("user-05", user_id):
                until(partial(_is_cold, client, gone))
            assert not _is_cold(client, "user-09")
        assert files_with(own, user_id) == []


def _is_cold(client: Client, user_id: str) -> bool:
    return bool(client.recommend(user_id, k=1).user_state == common_pb2.USER_STATE_COLD)
