import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from kg.config import GraphSettings
from kg.errors import GraphError, MissingExtraError
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import OverloadedError, ServerUnavailableError
from server.contract import written_events
from server.drain import BATCH, Drain, rows
from server.journal import Journal
from server.journal_file import WrittenSearch
from tests.server.running import running
from tests.server.shop import tables
from tests.server.test_journal_trim import forget
from tests.waiting import until


def test_with_the_graph_away_ranking_answers_and_events_wait(home: Path) -> None:
    nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
    with running(home, lambda: Graph.connect(nowhere, home / "graph")) as server, Client(server.target) as client:
        client.write_event(event("patient", "product-02", "purchase"))
        assert client.recommend("patient").results
    journal = Journal(home / "journal.db")
    assert len(journal.read(0, 10)) == 1
    assert journal.drained == 0
    journal.close()


def test_what_stays_in_the_journal_is_told_though_the_graph_was_never_there(home: Path) -> None:
    nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
    connect = lambda: Graph.connect(nowhere, home / "graph")  # noqa: E731  # read at the call below
    with capture_logs() as logged, running(home, connect) as server, Client(server.target) as client:
        client.write_events([event("patient", "product-02"), event("patient", "product-03")])
        assert client.search("thing", "patient", k=3).results
        until(lambda: server.server._journal.searches_behind == 1)
        with pytest.raises(ServerUnavailableError):
            client.erase_user("user-04")
    left = [(each["events"], each["searches"], each["erasures"]) for each in logged if each["event"] == "journal_left"]
    assert left == [(2, 1, 1)]


def test_a_server_without_a_graph_leaves_its_events_in_the_journal_and_that_is_no_news(home: Path) -> None:
    with capture_logs() as logged, running(home) as server, Client(server.target) as client:
        client.write_event(event("patient", "product-02"))
    assert "journal_left" not in [each["event"] for each in logged]


@pytest.mark.neo4j
def test_events_reach_the_graph_when_it_comes_back(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = Journal(tmp_path / "journal.db")
    waiting = [event("patient", f"product-{number % 90:02}", event_id=f"wait-{number}") for number in range(1000)]
    more = [event("patient", "product-01", event_id=f"more-{number}") for number in range(BATCH // 2)]
    for events in (waiting, more):
        journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(30)
    attempts = 0
    came_back = threading.Event()

    @contextmanager
    def connect() -> Iterator[Graph]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
            with Graph.connect(nowhere, tmp_path) as never:
                yield never
        came_back.set()
        yield graph

    drain = Drain(journal, connect)
    drain.start()
    assert came_back.wait(60)
    drain.close(60)  # takes what is left first
    stored = graph.read("MATCH (:User {id: 'patient'})-[e]->() RETURN count(e), count(DISTINCT e.event_id)")
    assert stored == [[1500, 1500]]
    assert journal.drained == graph.journal_offset(journal.name) == 1500
    journal.close()


def test_a_graph_that_can_t_be_opened_is_logged_with_what_to_do(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    attempted = threading.Event()

    def connect() -> AbstractContextManager[Graph]:
        attempted.set()
        raise MissingExtraError("there is no Java", "Install it.")

    with capture_logs() as logged:
        drain = Drain(journal, connect)
        drain.start()
        assert attempted.wait(30)
        drain.close(30)
    journal.close()
    assert {each["remedy"] for each in logged if each["event"] == "drain_waits"} == {"Install it."}


@pytest.mark.neo4j
def test_a_graph_that_was_restored_from_a_backup_is_given_the_rest_again(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = drained(tmp_path, graph, 60)
    # Yesterday's backup: it has the first 20 events.
    graph.write("MATCH ()-[r:VIEWED]->() WHERE toInteger(substring(r.event_id, 2)) >= 20 DELETE r")
    graph.write("MATCH (j:Journal) SET j.offset = 20")
    with capture_logs() as logged:
        drain_all(journal, graph)
    assert [each["graph_offset"] for each in logged if each["event"] == "graph_went_back"] == [20]
    stored = graph.read("MATCH (:User {id: 'patient'})-[e]->() RETURN count(e), count(DISTINCT e.event_id)")
    assert stored == [[60, 60]]
    assert (journal.drained, journal.behind) == (60, 0)
    journal.close()


@pytest.mark.neo4j
def test_what_the_graph_took_before_a_kill_is_not_told_as_waiting(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = drained(tmp_path, graph, 30)
    journal.set_drained(0)  # the server was killed before it noted that
    assert journal.behind == 30
    drain_all(journal, graph)
    assert (journal.drained, journal.behind) == (30, 0)
    journal.close()


@pytest.mark.neo4j
def test_a_backup_that_is_older_than_what_the_journal_keeps_is_told_of(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = drained(tmp_path, graph, 40)
    forget(journal, [each.offset for each in journal.read(0, 20)])
    # A backup that has the first ten.
    graph.write("MATCH ()-[r:VIEWED]->() WHERE r.event_id IS NOT NULL DELETE r")
    graph.write("MATCH (j:Journal) SET j.offset = 10")
    with capture_logs() as logged:
        drain_all(journal, graph)
    told = next(each for each in logged if each["event"] == "graph_lacks_trimmed_events")
    assert told["remedy"] == "The graph's backup is older than what the journal keeps: restore a newer one."
    stored = graph.read("MATCH (:User {id: 'patient'})-[e]->() RETURN e.event_id")
    assert {row[0] for row in stored} == {f"e-{number}" for number in range(20, 40)}
    journal.close()


@pytest.mark.neo4j
def test_a_backup_that_has_what_was_trimmed_under_another_name_lacks_nothing(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = drained(tmp_path, graph, 40)
    forget(journal, [each.offset for each in journal.read(0, 20)])
    journal.begin_anew()  # as a restore does
    drain_all(journal, graph)
    # The same backup once more: it knows the first name only.
    graph.write("MATCH (j:Journal {name: $name}) DELETE j", name=journal.name)
    with capture_logs() as logged:
        drain_all(journal, graph)
    told = [each["event"] for each in logged]
    assert "graph_went_back" in told
    assert "graph_lacks_trimmed_events" not in told
    journal.close()


@pytest.mark.neo4j
def test_a_journal_that_is_older_than_the_graph_loses_nothing_that_comes_later(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = Journal(tmp_path / "journal.db")
    first = [event("patient", "product-01", event_id=f"first-{number}") for number in range(3)]
    journal.append(written_events(first, "events[{}]", 2_000_000_000_000)).result(30)
    name = journal.name
    graph.append_events(rows(journal.read(0, 10)), name, 50)  # the graph had 47 events more of it
    drain_all(journal, graph)
    assert journal.name != name
    later = [event("patient", "product-02", event_id=f"later-{number}") for number in range(2)]
    journal.append(written_events(later, "events[{}]", 2_000_000_000_000)).result(30)
    drain_all(journal, graph)
    stored = graph.read("MATCH (:User {id: 'patient'})-[e]->() RETURN count(e), count(DISTINCT e.event_id)")
    assert stored == [[5, 5]]
    journal.close()


@pytest.mark.neo4j
@pytest.mark.parametrize("restarted", [False, True], ids=["at once", "after a restart"])
def test_a_journal_that_is_older_than_the_graph_is_known_as_such_after_more_events_than_it_lacks(
    tmp_path: Path, graph: Graph, restarted: bool
) -> None:
    graph.load(tables())
    journal = drained(tmp_path, graph, 30)
    journal.close()
    older = tmp_path / "older.db"
    shutil.copy2(journal.path, older)
    journal = Journal(journal.path)
    newer = [event("patient", "product-01", event_id=f"lost-{number}") for number in range(5)]
    journal.append(written_events(newer, "events[{}]", 2_000_000_000_000)).result(30)
    drain_all(journal, graph)
    journal.close()
    # It is put back as it was, and takes more while the graph is away than it lacks.
    journal = Journal(older)
    later = [event("patient", "product-02", event_id=f"later-{number}") for number in range(8)]
    journal.append(written_events(later, "events[{}]", 2_000_000_000_000)).result(30)
    if restarted:
        journal.close()
        journal = Journal(older)
    drain_all(journal, graph)
    journal.close()
    stored = graph.read("MATCH (:User {id: 'patient'})-[e]->() RETURN count(e), count(DISTINCT e.event_id)")
    assert stored == [[30 + 5 + 8, 30 + 5 + 8]]


class NeverDry:
    """A graph whose journal has more of one kind each time that a batch of it was taken, and the other kind once."""

    def __init__(self, graph: Graph, journal: Journal, kind: str) -> None:
        self._graph, self._journal, self._kind = graph, journal, kind
        self.taken: list[str] = []
        self.journal_offset = graph.journal_offset
        self.put(kind)

    def put(self, kind: str) -> None:
        event_id = uuid.uuid4().hex
        if kind == "searches":
            self._journal.append_search(WrittenSearch(event_id, "patient", "tea", 2_000_000_000_000)).result(30)
        else:
            given = [event("patient", "product-01", event_id=event_id)]
            self._journal.append(written_events(given, "events[{}]", 2_000_000_000_000)).result(30)

    def append_events(self, interactions: pa.Table, journal: str, offset: int, received_ms: Sequence[int]) -> int:
        new = self._graph.append_events(interactions, journal, offset, received_ms)
        self._take("events")
        return new

    def append_searches(self, searches: Sequence[tuple[str, str, str, int]]) -> None:
        self._graph.append_searches(searches)
        self._take("searches")

    def _take(self, kind: str) -> None:
        self.taken.append(kind)
        if kind == self._kind and len(self.taken) < 6:
            self.put(kind)
        if len(self.taken) == 1:
            self.put("events" if kind == "searches" else "searches")


@pytest.mark.neo4j
@pytest.mark.parametrize(("many", "few"), [("searches", "events"), ("events", "searches")])
def test_events_and_searches_wait_for_one_batch_of_the_others(
    tmp_path: Path, graph: Graph, many: str, few: str
) -> None:
    graph.load(tables())
    journal = Journal(tmp_path / "journal.db")
    store = NeverDry(graph, journal, many)
    drain = Drain(journal, lambda: nullcontext(store))
    drain.start()
    drain.close(60)
    assert store.taken[:3] == [many, few, many]
    assert (journal.behind, journal.searches_behind) == (0, 0)
    journal.close()


class NoSearches:
    """A graph that takes events, and refuses searches."""

    def __init__(self, graph: Graph) -> None:
        self.journal_offset, self.append_events = graph.journal_offset, graph.append_events

    def append_searches(self, searches: Sequence[tuple[str, str, str, int]]) -> None:
        raise GraphError("these searches can't be stored", "There is no remedy.")


@pytest.mark.neo4j
def test_searches_that_the_graph_refuses_keep_no_event_from_it(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.drain.BATCH", 2)
    graph.load(tables())
    journal = Journal(tmp_path / "journal.db")
    given = [event("patient", "product-01", event_id=f"e-{number}") for number in range(9)]
    journal.append(written_events(given, "events[{}]", 2_000_000_000_000)).result(30)
    journal.append_search(WrittenSearch("s-0", "patient", "tea", 2_000_000_000_000)).result(30)
    drain = Drain(journal, lambda: nullcontext(NoSearches(graph)))
    drain.start()
    drain.close(60)
    assert (journal.behind, journal.searches_behind) == (0, 1)
    journal.close()


def drained(folder: Path, graph: Graph, count: int) -> Journal:
    """Return a journal with events e-0, e-1, ... of one user, which the graph has."""
    journal = Journal(folder / "journal.db")
    events = [event("patient", f"product-{number:02}", event_id=f"e-{number}") for number in range(count)]
    journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(30)
    drain_all(journal, graph)
    return journal


def drain_all(journal: Journal, graph: Graph) -> None:
    drain = Drain(journal, lambda: nullcontext(graph))
    drain.start()
    drain.close(60)


def test_events_wait_for_the_graph_up_to_a_limit_and_are_then_refused(home: Path) -> None:
    nowhere = GraphSettings(uri="bolt://127.0.0.1:1", password=SecretStr("irrelevant"))
    connect = lambda: Graph.connect(nowhere, home / "graph")  # noqa: E731  # read at the call below
    with running(home, connect, max_undrained=20) as server, Client(server.target) as client:
        client.write_events([event("patient", "product-02", event_id=f"w-{number}") for number in range(20)])
        with pytest.raises(OverloadedError) as refused:
            client.write_event(event("patient", "product-03"))
        assert refused.value.reason == "GRAPH_BEHIND"
        assert refused.value.retry_after_s == 30
        assert client.recommend("patient").results
