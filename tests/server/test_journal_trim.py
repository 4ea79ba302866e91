"""What a journal forgets, and when: what the graph has, what no model needs, and what is old."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.store import Graph
from kg.tables import InteractionType
from kgrank.client import Client, event
from server.contract import TYPE_OF_CODE, WrittenEvent
from server.histories import LiveHistories
from server.journal import Journal
from server.journal_file import TRIMMED, JournalFile
from server.journal_trim import JournalTrim
from server.memory import replay
from server.models import ModelFolder
from server.traffic import Share, Traffic
from tests.server.running import running
from tests.server.shop import HOUR_MS, START_MS, Shop, tables, train_shortly
from tests.waiting import until

OLD_MS = 1_700_000_000_000
WEEK_MS = 7 * 24 * HOUR_MS


def forget(journal: JournalFile, offsets: Sequence[int]) -> None:
    """Have a journal forget events that the graph has, however new they are."""
    trim = JournalTrim(journal.connection, kept_ms=-WEEK_MS)
    trim.allow(offsets)
    trim.go_on()


def age(path: Path, *, until: int = 1 << 62) -> None:
    """Let the events of a journal have come long ago, up to an offset."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        connection.execute("UPDATE event SET received_ms = ? WHERE offset <= ?", (OLD_MS, until))


def left(journal: JournalFile) -> list[int]:
    return [each.offset for each in journal.all()]


class Clock:
    """A moment that a test moves."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def ten(tmp_path: Path) -> JournalFile:
    """A journal with ten events, offsets 1 to 10, of which the graph has eight and six are old."""
    journal = Journal(tmp_path / "journal.db")
    kind = InteractionType.VIEW
    journal.append([WrittenEvent(f"e-{each}", "u", "p", kind, 1000, None) for each in range(1, 11)]).result(30)
    journal.note_drained(8)
    journal.close()
    age(journal.path, until=6)
    return JournalFile(journal.path)


def test_what_is_old_in_the_graph_and_needed_by_no_model_goes(ten: JournalFile) -> None:
    clock = Clock()
    trim = JournalTrim(ten.connection, WEEK_MS, clock)
    trim.go_on()
    assert left(ten) == list(range(1, 11))  # nothing is known of what models need
    trim.allow([1, 2, 4, 5, 6, 7, 8, 9, 10])
    trim.go_on()
    assert left(ten) == [3, 7, 8, 9, 10]
    assert ten.noted(TRIMMED) == 6
    age(ten.path)
    trim.go_on()
    assert left(ten) == [3, 7, 8, 9, 10]
    clock.s += 3_601
    trim.go_on()
    assert left(ten) == [3, 9, 10]  # the graph does not have the last two


def test_what_came_while_the_clock_was_far_ahead_goes_with_what_came_after_it(ten: JournalFile) -> None:
    with ten.connection() as connection:
        connection.execute("UPDATE event SET received_ms = ? WHERE offset IN (2, 7)", (OLD_MS * 2,))
    trim = JournalTrim(ten.connection, WEEK_MS, Clock())
    trim.allow(range(1, 11))
    trim.go_on()
    assert left(ten) == [7, 8, 9, 10]  # whether the seventh is old is not known before the eighth is


def test_it_goes_little_by_little_so_that_nobody_waits_to_write(
    ten: JournalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.journal_trim.AT_ONCE", 2)
    trim = JournalTrim(ten.connection, WEEK_MS, Clock())
    trim.allow(range(1, 11))
    counts = []
    for _ in range(5):
        trim.go_on()
        counts.append(len(left(ten)))
    assert counts == [8, 6, 4, 4, 4]


def test_a_journal_that_can_t_be_trimmed_is_kept_and_tried_again(ten: JournalFile) -> None:
    clock = Clock()
    trim = JournalTrim(ten.connection, WEEK_MS, clock)
    with ten.connection() as connection:
        connection.execute("CREATE TRIGGER full BEFORE DELETE ON event BEGIN SELECT RAISE(FAIL, 'full'); END")
    trim.allow(range(1, 11))
    with capture_logs() as logged:
        trim.go_on()
    assert [(each["event"], each["error"]) for each in logged] == [("journal_not_trimmed", "full")]
    assert left(ten) == list(range(1, 11))
    with ten.connection() as connection:
        connection.execute("DROP TRIGGER full")
    clock.s += 3_601
    trim.go_on()
    assert left(ten) == [7, 8, 9, 10]


def test_a_journal_forgets_by_itself(ten: JournalFile) -> None:
    with closing(Journal(ten.path)) as journal:
        journal.trim.allow([1, 2])
        until(lambda: left(journal) == list(range(3, 11)))


def held_by(snapshot: Snapshot, count: int = 2) -> list[WrittenEvent]:
    """Return events that a snapshot has of its first user, oldest first."""
    stored = snapshot.histories
    return [
        WrittenEvent(
            f"held-{row}",
            snapshot.users.id(0),
            snapshot.products.id(int(stored.product_index[row])),
            TYPE_OF_CODE[int(stored.type[row])],
            int(stored.at_ms[row]),
            None,
        )
        for row in range(stored.rows(0).start, stored.rows(0).start + count)
    ]


def test_only_what_every_snapshot_has_may_go(home: Path, shop: Shop) -> None:
    held = held_by(shop.snapshot)
    journal = Journal(home / "journal.db")
    journal.append([*held, replace(held[0], event_id="ghost", product_id="ghost")]).result(10)
    journal.note_drained(3)

    def left_by(oldest_as_of_ms: int) -> list[str]:
        replay(LiveHistories(shop.snapshot, 100), shop.snapshot, journal, oldest_as_of_ms)
        journal.trim.go_on()
        return [each.event.event_id for each in journal.all()]

    everything = [held[0].event_id, held[1].event_id, "ghost"]
    assert left_by(shop.snapshot.as_of_ms) == everything  # received just now
    with closing(sqlite3.connect(home / "journal.db")) as connection, connection:
        connection.execute("UPDATE event SET received_ms = at_ms")
    assert left_by(held[0].at_ms) == everything[1:]
    assert left_by(shop.snapshot.as_of_ms) == ["ghost"]
    journal.close()


@contextmanager
def long_served(home: Path, snapshot: Snapshot) -> Iterator[list[str]]:
    """Serve a home whose journal has two old events that the snapshot has and the graph too; yield their ids."""
    held = held_by(snapshot)
    with closing(Journal(home / "journal.db")) as journal:
        journal.append(held).result(10)
        journal.note_drained(2)
        with journal.connection() as connection:
            connection.execute("UPDATE event SET received_ms = at_ms")
    with running(home) as server:
        journal = server.server._journal
        journal.trim.go_on()
        yield [each.event.event_id for each in journal.all()]


def older(home: Path) -> Snapshot:
    """Put a snapshot into a home that ends with the first of the events of `held_by`: the newcomer's."""
    made = freeze(tables(), as_of_ms=START_MS + 50 * HOUR_MS)
    made.save(home / "snapshots" / "older")
    return made


def test_a_snapshot_that_no_model_needs_holds_nothing_back(home: Path, shop: Shop) -> None:
    older(home)
    with long_served(home, shop.snapshot) as events:
        assert events == []


def test_a_model_that_rolling_back_leads_to_holds_back_what_its_snapshot_lacks(home: Path, shop: Shop) -> None:
    (active, other), models = shop.versions, ModelFolder(home / "artifacts")
    path = models.folder / other / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"snapshot_hash": older(home).content_hash}))
    models.note(Traffic(other).activated(active))
    with long_served(home, shop.snapshot) as events:
        assert events == [held_by(shop.snapshot)[1].event_id]


def test_the_models_that_may_come_back_are_those_in_service_and_those_before(home: Path, shop: Shop) -> None:
    def returning() -> set[str]:
        return {each.model_version for each in ModelFolder(home / "artifacts", chosen=shop.versions[0]).returning()}

    older_one, newest = shop.versions
    models = ModelFolder(home / "artifacts")
    assert returning() == {newest}  # nothing is noted: a start serves the newest
    models.note(Traffic(older_one))
    assert returning() == {older_one}
    for traffic in (
        Traffic(older_one, shares=(Share(newest, 5.0),)),
        Traffic(older_one, shadow=newest),
        Traffic(older_one, before=("gone", newest)),
    ):
        models.note(traffic)
        assert returning() == {older_one, newest}


@pytest.mark.neo4j
def test_an_older_model_that_is_activated_after_all_has_what_was_forgotten_from_the_graph(
    home: Path, shop: Shop, graph: Graph
) -> None:
    graph.load(tables())

    def answered(client: Client) -> set[str]:
        return {each.product_id for each in client.recommend("user-01", k=90, exclude_seen=True).results}

    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=60) as client:
        assert "product-77" in answered(client)
        client.write_event(event("user-01", "product-77", "purchase", event_id="e-1"))
        until(lambda: server.server._journal.behind == 0)
    newer = freeze(graph.export(), commit=graph.last_commit)
    newer.save(home / "snapshots" / "newer")
    (home / "snapshots" / "LATEST").write_text("newer")
    version = train_shortly(home / "artifacts", newer, 3)
    ModelFolder(home / "artifacts").note(Traffic(version))
    age(home / "journal.db")
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=60) as client:
        until(lambda: server.server.graph_open and not left(server.server._journal))
        assert "product-77" not in answered(client)
        assert client.activate_model(f"models/{shop.versions[0]}")
        assert client.recommend("user-01", k=1).model_version == shop.versions[0]
        until(lambda: "product-77" not in answered(client))
        assert client.roll_back_model()
        assert "product-77" not in answered(client)
