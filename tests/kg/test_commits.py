"""The commit sequence against a real Neo4j: numbers without gaps in what is visible, and what each commit changed."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kg import commits
from kg.commits import ChangeKind, Commit
from kg.errors import GraphError
from kg.store import Graph
from tests.kg.small_tables import event, tables

pytestmark = pytest.mark.neo4j


def put(graph: Graph, product_id: str) -> int:
    def work(commit: Commit) -> int:
        commit.run("MERGE (p:Product {id: $id}) SET p.title = 'new'", id=product_id)
        commit.note(ChangeKind.PRODUCT, product_id)
        commit.note(ChangeKind.PRODUCT, product_id)
        return commit.number

    return graph.commit(work)


def test_commits_are_numbered_and_tell_what_they_changed(graph: Graph) -> None:
    assert graph.last_commit == 0
    assert [put(graph, each) for each in ("a", "b")] == [1, 2]
    assert graph.last_commit == 2
    changes = graph.changes_since(0)
    assert [(each.commit, each.kind, each.key) for each in changes] == [
        (1, ChangeKind.PRODUCT, "a"),
        (2, ChangeKind.PRODUCT, "b"),
    ]
    assert [each.key for each in graph.changes_since(1)] == ["b"]
    assert [each.key for each in graph.changes_since(0, limit=1)] == ["a"]


def test_a_page_of_changes_that_only_a_newer_version_knows_is_not_the_last(graph: Graph) -> None:
    def of_tomorrow(commit: Commit) -> None:
        commit.run("CREATE (:Change {commit: $number, kind: 'of tomorrow', key: 'x', at: 0})", number=commit.number)

    put(graph, "a")
    for _ in range(5):
        graph.commit(of_tomorrow)
    put(graph, "b")
    assert [each.key for each in graph.changes_since(0, limit=1)] == ["a"]
    assert [each.key for each in graph.changes_since(0, limit=2)] == ["a", "b"]
    assert [each.key for each in graph.changes_since(1, limit=2)] == ["b"]
    assert graph.changes_since(7) == []


def test_a_commit_that_fails_leaves_nothing_and_no_number(graph: Graph) -> None:
    def work(commit: Commit) -> None:
        commit.run("CREATE (:Product {id: 'half'})")
        commit.note(ChangeKind.PRODUCT, "half")
        commit.run("this is no Cypher")

    with pytest.raises(GraphError):
        graph.commit(work)
    assert graph.last_commit == 0
    assert graph.changes_since(0) == []
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[0]]


def test_whoever_has_read_a_number_finds_every_commit_up_to_it(graph: Graph) -> None:
    per_commit = 3_000  # so many that Neo4j shows the number well before its index has them all

    def put_many(name: str) -> int:
        def work(commit: Commit) -> int:
            for each in range(per_commit):
                commit.note(ChangeKind.PRODUCT, f"{name}-{each}")
            return commit.number

        return graph.commit(work)

    done = threading.Event()
    lacking: list[tuple[int, int]] = []
    looks = 0

    def watch() -> None:
        nonlocal looks
        known = 0
        while not done.is_set():
            last = graph.last_commit
            [[found]] = graph.read(
                "MATCH (c:Change) WHERE c.commit > $known AND c.commit <= $last RETURN count(c)", known=known, last=last
            )
            lacking.extend([(last, found)] if found != (last - known) * per_commit else [])
            known = last
            looks += 1

    with ThreadPoolExecutor(5) as pool:
        watching = pool.submit(watch)
        numbers = list(pool.map(put_many, [f"p{number}" for number in range(20)]))
        done.set()
        watching.result(30)
    assert sorted(numbers) == list(range(1, 21))
    assert looks
    assert lacking == []


def test_events_are_found_by_their_commit_and_those_of_files_are_not(graph: Graph) -> None:
    first = [event("e1", "ann", "a", value=2.0), event("e2", "bob", "a", type="view", at_ms=5)]
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("file", "ann", "a")]))
    graph.append_events(tables(interactions=first).interactions, "server-1", 2)
    graph.append_events(tables(interactions=[event("e3", "ann", "a")]).interactions, "server-2", 1)
    graph.append_events(tables(interactions=[event("e3", "ann", "a")]).interactions, "server-1", 3)  # has it already
    found = sorted((each for block in graph.events_since(0) for each in block), key=lambda each: each.event_id)
    assert [(each.event_id, each.user_id, each.commit) for each in found] == [
        ("e1", "ann", 1),
        ("e2", "bob", 1),
        ("e3", "ann", 2),
    ]
    assert [each.value for each in found][:1] == [2.0]
    assert [each.event_id for block in graph.events_since(1) for each in block] == ["e3"]
    assert {each.event_id for block in graph.events_since(0, 1) for each in block} == {"e1", "e2"}
    assert [(each.kind, each.key) for each in graph.changes_since(0)] == [
        (ChangeKind.EVENTS, "server-1"),
        (ChangeKind.EVENTS, "server-2"),
    ]


def test_blocks_of_events_lose_none_at_their_seams(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_EVENTS_AT_ONCE", 5)
    for number in range(6):
        rows = [event(f"{number}-{each}", "u", "a") for each in range(number % 4 + 1)]
        graph.append_events(tables(interactions=rows).interactions, "server-1", number + 1)
    found = [each.event_id for block in graph.events_since(0) for each in block]
    assert len(found) == len(set(found)) == 1 + 2 + 3 + 4 + 1 + 2


def test_a_graph_that_fell_behind_goes_on_above_what_anyone_may_know(graph: Graph) -> None:
    graph.append_events(tables(interactions=[event("e1", "u", "a")]).interactions, "server-1", 1)
    assert graph.advance_commits(1, commits.MARGIN) == 1
    assert graph.advance_commits(40, commits.MARGIN) == 40 + commits.MARGIN
    graph.append_events(tables(interactions=[event("e2", "u", "a", type="rate")]).interactions, "server-1", 2)
    assert [commits.next_with_events(graph, each) for each in (0, 1)] == [1, 41 + commits.MARGIN]
    assert commits.next_with_events(graph, graph.last_commit) is None


def test_old_changes_go_and_the_number_stays(graph: Graph) -> None:
    put(graph, "a")
    now_ms = time.time_ns() // 1_000_000
    assert graph.forget_old_changes() == 0
    assert graph.forgotten_until == 0
    assert commits.forget_old_changes(graph, now_ms + 60_000) == 1
    assert not graph.changes_since(0)
    assert graph.forgotten_until == graph.last_commit == 1
    put(graph, "b")
    assert commits.forget_old_changes(graph, now_ms - 60_000) == 0
    assert graph.forgotten_until == 1


def test_the_last_change_of_the_models_is_known_for_good(graph: Graph) -> None:
    assert commits.last_model_change(graph) is None
    for version in ("old", "new"):
        graph.commit(lambda commit, version=version: commit.note(ChangeKind.MODEL, version))  # type: ignore[misc]  # of this round
    put(graph, "a")
    [*_, told, _] = graph.changes_since(0)
    commits.forget_old_changes(graph, time.time_ns() // 1_000_000 + 60_000)
    assert commits.last_model_change(graph) == told
    assert (told.commit, told.kind, told.key) == (2, ChangeKind.MODEL, "new")
