"""What is remembered of users: each event once, wherever and however often it comes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kg.commits import CommittedEvent
from kg.exporting import export_interactions
from kg.freeze import freeze
from kg.store import Graph
from kg.tables import InteractionType, Tables
from kg.vocabulary import Vocabulary
from server.contract import TYPE_OF_CODE, WrittenEvent
from server.drain import AFTER_FILES, rows
from server.histories import LiveHistories
from server.journal import Journal
from server.journal_file import StoredEvent
from server.memory import Memory
from tests.server.shop import Shop, tables

NOW_MS = 1_800_000_000_000
PURCHASE, VIEW = InteractionType.PURCHASE, InteractionType.VIEW


@pytest.fixture
def histories(shop: Shop) -> LiveHistories:
    return LiveHistories(shop.snapshot, 10)


@pytest.fixture
def memory(histories: LiveHistories, shop: Shop, tmp_path: Path) -> Iterator[Memory]:
    engine: Any = type("Answering", (), {"snapshot": shop.snapshot})()
    journal = Journal(tmp_path / "journal.db")
    yield Memory(lambda: [(histories, engine)], journal)
    journal.close()


def committed(event_id: str, product_id: str = "product-02") -> CommittedEvent:
    return CommittedEvent(1, event_id, "stranger", product_id, PURCHASE, NOW_MS, 1.0, AFTER_FILES)


def written(event_id: str, offset: int) -> StoredEvent:
    return StoredEvent(offset, WrittenEvent(event_id, "stranger", "product-02", PURCHASE, NOW_MS, 1.0), NOW_MS)


def test_events_that_differ_in_nothing_but_their_ids_count_each_once(memory: Memory, histories: LiveHistories) -> None:
    three = [committed(f"line-{number}") for number in range(3)]
    memory.follow(three, -1, 1)
    assert histories.length("stranger") == 3
    memory.restart()
    memory.follow(three, -1, 1)
    assert histories.length("stranger") == 3
    # A caller that did not hear from the other server writes one here, too.
    memory.written([written("line-1", 1), written("line-3", 2)])
    assert histories.length("stranger") == 4
    memory.restart()
    memory.follow([*three, committed("line-3")], -1, 1)
    assert histories.length("stranger") == 4


def test_an_event_that_waits_for_its_product_counts_once(memory: Memory, histories: LiveHistories) -> None:
    for _ in range(3):
        memory.restart()
        memory.follow([committed("line-1", "ghost"), committed("line-2", "ghost")], -1, 1)
    assert histories.length("stranger") == 0
    histories.joined(Vocabulary(pa.array(["ghost"])))
    assert histories.length("stranger") == 2
    memory.restart()
    memory.follow([committed("line-1", "ghost")], -1, 1)
    histories.joined(Vocabulary(pa.array(["ghost"])))
    assert histories.length("stranger") == 2


def test_who_was_forgotten_has_what_the_graph_still_tells(memory: Memory, histories: LiveHistories) -> None:
    memory.follow([committed("before"), committed("after")], -1, 1)
    memory.forget("stranger", [])
    assert histories.length("stranger") == 0
    memory.look_again(0)
    memory.follow([committed("after")], 0, 1)
    assert histories.length("stranger") == 1


def test_what_was_committed_while_a_snapshot_was_exported_counts_once(
    memory: Memory, histories: LiveHistories, shop: Shop
) -> None:
    stored = shop.snapshot.histories
    row = stored.rows(0).start
    user_id = shop.snapshot.users.id(0)
    product_id = shop.snapshot.products.id(int(stored.product_index[row]))
    type_, at_ms = TYPE_OF_CODE[int(stored.type[row])], int(stored.at_ms[row])
    before = histories.length(user_id)
    late = shop.snapshot.commit + 1  # the snapshot tells of no commit above its own, and may have some of one
    memory.follow([CommittedEvent(late, "exported", user_id, product_id, type_, at_ms, None, 0)], -1, late)
    assert histories.length(user_id) == before
    # A caller that did not hear from the server that took it writes it here, whose journal never had it.
    memory.written([StoredEvent(1, WrittenEvent("exported", user_id, product_id, type_, at_ms, None), NOW_MS)])
    assert histories.length(user_id) == before


@pytest.mark.neo4j
def test_events_of_one_moment_stand_in_one_order_at_every_server_and_in_the_next_snapshot(
    shop: Shop, graph: Graph, tmp_path: Path
) -> None:
    def stored(name: str, offset: int, product: int, type_: InteractionType) -> StoredEvent:
        event = WrittenEvent(f"{name}-{offset}", "stranger", f"product-{product:02}", type_, NOW_MS, 1.0)
        return StoredEvent(offset, event, NOW_MS)

    # The later commit has the earlier offset, and one that both journals have; the call of two types is the usual one.
    first = [stored("a", 5, 50, PURCHASE), stored("a", 6, 60, VIEW), stored("a", 7, 10, PURCHASE)]
    second = [stored("b", 4, 20, VIEW), stored("b", 5, 30, PURCHASE), stored("b", 6, 40, VIEW)]
    for name, written_there in (("a", first), ("b", second)):
        graph.append_events(rows(written_there), name, written_there[-1].offset)
    exported = Tables(interactions=export_interactions(graph), products=tables().products)
    wanted = LiveHistories(freeze(exported), 10).latest("stranger", 90).product_index.tolist()
    assert wanted == [20, 50, 30, 60, 40, 10]

    engine: Any = type("Answering", (), {"snapshot": shop.snapshot})()
    each_type = [each for block in graph.events_since(0) for each in block]
    for number, (own, others) in enumerate(
        (
            (first, graph.events_of([2])),
            (second, graph.events_of([1])),
            ([], graph.events_of([1, 2])),
            ([], each_type),
        )
    ):
        histories, journal = LiveHistories(shop.snapshot, 10), Journal(tmp_path / f"{number}.db")
        memory = Memory(lambda kept=histories: [(kept, engine)], journal)  # type: ignore[misc]  # of this round
        memory.written(own)
        memory.follow(others, -1, 2)
        journal.close()
        assert histories.latest("stranger", 90).product_index.tolist() == wanted
