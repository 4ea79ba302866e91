"""UserService over a real socket and a real Neo4j: what is known of a user, all that is stored, and its erasure."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest

from kg.erasure import user_key
from kg.redaction import redact_all
from kg.snapshot import Snapshot
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import InvalidRequestError, NotFoundError, ServerUnavailableError
from kgrank.v1 import common_pb2
from kgrank.v1.user_service_pb2 import ExportUserRequest
from server.drain import Drain
from server.erasing import Eraser
from server.graph_link import GraphLink
from server.journal import Journal
from server.journal_file import WrittenSearch
from server.memory import Memory
from server.past_searches import PastSearch
from server.services.users import UserService
from tests.server.erasure import files_with, lines_of, properties, publish_for, shop_server
from tests.server.running import running, serving_of
from tests.server.shop import Shop, tables
from tests.waiting import until

pytestmark = pytest.mark.neo4j


def test_a_profile_says_what_a_user_likes(client: Client) -> None:
    profile = client.user_profile("user-01")
    assert profile.state == common_pb2.USER_STATE_WARM
    assert profile.interaction_count == 7
    assert [(each.id, each.count) for each in profile.brands] == [("Bolt", 7)]
    assert profile.brands[0].weight == pytest.approx(1.0)
    assert sum(each.count for each in profile.categories) == 7
    assert sum(each.weight for each in profile.categories) == pytest.approx(1.0)
    assert {(each.kind, each.name) for each in profile.interests} == {
        ("attribute", "colour=red"),
        ("attribute", "colour=blue"),
    }
    prices = profile.price_level
    assert prices.lower <= prices.median <= prices.upper
    assert 0 <= prices.percentile <= 1
    assert profile.first_time.seconds < profile.last_time.seconds
    assert [(each.type, each.count) for each in profile.types] == [(common_pb2.INTERACTION_TYPE_PURCHASE, 7)]


def test_a_profile_of_a_time_window_has_what_happened_in_it(client: Client) -> None:
    client.write_events([event("windowed", f"product-{number:02}", "view") for number in (3, 6)])
    assert client.user_profile("windowed", window_s=3600).interaction_count == 2
    assert client.user_profile("windowed", limit=1).state == common_pb2.USER_STATE_FEW_EVENTS
    assert len(client.user_profile("windowed", limit=1).categories) == 1
    # Clocks may run ahead.
    soon = time.time_ns() // 1_000_000 + 200_000
    client.write_events([event("windowed", "product-09", "view", at_ms=soon)])
    assert client.user_profile("windowed", window_s=3600).interaction_count == 2
    assert client.user_profile("windowed").interaction_count == 3
    # The shop's purchases are years old.
    assert client.user_profile("user-02", window_s=3600).interaction_count == 0
    assert client.search("thing", "only searched").results
    for user in ("nobody at all", "only searched"):
        with pytest.raises(NotFoundError, match="no interactions"):
            client.user_profile(user)
    with pytest.raises(InvalidRequestError):
        client.user_profile("user-02", window_s=-1)
    with pytest.raises(InvalidRequestError):
        client.user_profile("user-02", limit=101)


def test_without_a_graph_nobody_is_exported_or_erased(client: Client) -> None:
    with pytest.raises(ServerUnavailableError, match="without a graph"):
        lines_of(client, "user-01")
    with pytest.raises(ServerUnavailableError, match="without a graph"):
        client.erase_user("user-01")
    assert client.user_profile("user-01").interaction_count == 7


def test_an_export_has_all_that_is_stored_wherever_it_is(home: Path, graph: Graph) -> None:
    graph.load(tables())
    publish_for(graph, "user-03")
    with shop_server(home, graph) as (_, client):
        client.write_event(event("user-03", "product-05", "view", event_id="seen"))
        until(lambda: graph.read("MATCH ()-[r:VIEWED {event_id: 'seen'}]->() RETURN count(r)") == [[1]])
        found = lines_of(client, "user-03")
        assert lines_of(client, "never heard of") == []
    kinds = {(each["source"], each["record"]) for each in found}
    assert kinds == {
        ("graph", "user"),
        ("graph", "interaction"),
        ("graph", "search"),
        ("graph", "recommendation"),
        ("graph", "fact"),
        ("journal", "interaction"),
        ("snapshot", "history"),
        ("memory", "interaction"),
    }
    of_graph = [each for each in found if (each["source"], each["record"]) == ("graph", "interaction")]
    assert len(of_graph) == 10
    assert len([each for each in found if each["source"] == "memory"]) == 10
    assert of_graph[-1] == {
        "source": "graph",
        "record": "interaction",
        "event_id": "seen",
        "type": "view",
        "product_id": "product-05",
        "at_ms": of_graph[-1]["at_ms"],
        "value": None,
    }


def test_one_user_is_found_in_a_snapshot_without_a_dictionary_of_all(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_ = list[Snapshot](), Snapshot.open

    def noted(folder: Path, *, verify: bool) -> Snapshot:
        opened.append(open_(folder, verify=verify))
        return opened[-1]

    monkeypatch.setattr(Snapshot, "open", noted)
    nothing: Any = None
    service = UserService(nothing, nothing, nothing, nothing, shop.home / "snapshots")
    rows = shop.snapshot.histories.rows(shop.snapshot.users.array.to_pylist().index("user-03"))
    (found,) = service._of_snapshots("user-03")
    assert found["interactions"] == rows.stop - rows.start
    assert list(service._of_snapshots("never heard of")) == []
    assert len(opened) == 2
    assert not any("_index_of" in vars(each.users) for each in opened)


class TakingSearches(GraphLink[Graph]):
    """A link to the graph that takes the journal's searches there after each call, as a drain does at some moment."""

    def __init__(self, graph: Graph, journal: Journal) -> None:
        super().__init__(lambda: nullcontext(graph))
        self.journal = journal

    async def run(self, function: Callable[[Graph], Any]) -> Any:
        done = await super().run(function)
        searches = self.journal.searches(10)
        with self.graph() as graph:
            graph.append_searches([(each.event_id, each.user_id, each.query, each.at_ms) for each in searches.values()])
        self.journal.forget_searches(list(searches))
        return done


def test_an_export_has_searches_that_leave_the_journal_meanwhile_and_those_that_are_only_remembered(
    home: Path, graph: Graph
) -> None:
    async def exported(service: UserService) -> list[dict[str, Any]]:
        parts = service.ExportUser(ExportUserRequest(user_id="ann"), None)  # type: ignore[arg-type]  # it asks nothing
        return [json.loads(line) async for part in parts for line in part.json_lines.splitlines()]

    with serving_of(home) as (serving, journal):
        now_ms = time.time_ns() // 1_000_000
        journal.append_search(WrittenSearch("s-1", "ann", "a chair", now_ms)).result(10)
        assert serving.past is not None
        serving.past.note("ann", [PastSearch("a lamp", now_ms)])
        link, snapshots = TakingSearches(graph, journal), home / "snapshots"
        link.start()
        try:
            until(lambda: link.is_open)
            memory = Memory(serving.histories, journal, serving.past)
            eraser = Eraser(journal, Drain(journal, link.graph), link, memory, snapshots)
            found = asyncio.run(exported(UserService(serving, link, journal, eraser, snapshots)))
        finally:
            link.close()
    assert [(each["source"], each["record"], each["query"]) for each in found] == [
        ("journal", "search", "a chair"),
        ("memory", "search", "a lamp"),
    ]
    assert found[1] == {"source": "memory", "record": "search", "query": "a lamp", "at_ms": now_ms}
    assert graph.read("MATCH (:User {id: 'ann'})-[:SEARCHED]->(q:Query) RETURN q.text") == [["a chair"]]


def test_an_erased_user_is_nowhere_and_what_comes_later_is_all_there_is(home: Path, graph: Graph) -> None:
    graph.load(tables())
    publish_for(graph, "user-04")
    # In a list of a node, and in a relationship.
    graph.write(
        "MATCH (u:User {id: 'user-04'})-[r:RECOMMENDED]->() "
        "SET u.attribute_values = ['listed: user-04'], r.model = 'related: user-04'"
    )
    assert all(each in properties(graph) for each in ("listed: user-04", "related: user-04"))
    assert files_with(home, "user-04") != []
    with shop_server(home, graph) as (_, client):
        client.write_events([event("user-04", f"product-{number:02}", event_id=f"w-{number}") for number in range(4)])
        before = client.recommend("user-04", k=90, exclude_seen=True)
        first = client.erase_user("user-04")
        assert first.journal_event_count == 4
        assert first.interaction_count >= 10
        assert client.recommend("user-04", k=5).user_state == common_pb2.USER_STATE_COLD
        assert len(client.recommend("user-04", k=90, exclude_seen=True).results) == 90 > len(before.results)
        assert lines_of(client, "user-04") == []
        again = client.erase_user("user-04")
        assert (again.interaction_count, again.journal_event_count) == (0, 0)
        client.write_event(event("user-04", "product-09", "purchase", event_id="later"))
        assert client.user_profile("user-04").interaction_count == 1
        until(lambda: graph.read("MATCH (:User {id: 'user-04'})-[r]->() RETURN r.event_id") == [["later"]])
    assert graph.read("MATCH (q:Query) RETURN count(q)") == [[0]]  # nobody else searched for it
    # The event after the erasure is in the journal, and the rest of the home has nothing.
    assert {Path(each).name.partition("-")[0] for each in files_with(home, "user-04")} == {"journal.db"}
    with shop_server(home, graph) as (_, client):
        assert client.user_profile("user-04").interaction_count == 1
        client.erase_user("user-04")
    assert files_with(home, "user-04") == []
    assert "user-04" not in properties(graph)


def test_with_the_graph_away_an_erasure_waits_for_it(home: Path, graph: Graph) -> None:
    graph.load(tables())
    away = True

    @contextmanager
    def connect() -> Iterator[Graph]:
        if away:
            from kg.errors import GraphUnavailableError

            raise GraphUnavailableError("the graph is away", "Wait.")
        yield graph

    with running(home, connect) as server, Client(server.target, timeout_s=30) as client:
        with pytest.raises(ServerUnavailableError, match="tried again until it is done"):
            client.erase_user("user-07")
        away = False
        until(lambda: server.server._journal.pending_erasures() == [])  # a server that leaves before puts it off
        assert graph.read("MATCH (u:User {id: 'user-07'}) RETURN count(u)") == [[0]]
        assert client.recommend("user-07", k=1).user_state == common_pb2.USER_STATE_COLD
    assert files_with(home, "user-07") == []


def test_a_snapshot_that_can_t_be_rewritten_keeps_neither_the_graph_nor_the_model_away(
    home: Path, graph: Graph
) -> None:
    graph.load(tables())
    lock = home / "snapshots" / ".erasing.lock"
    lock.mkdir()  # opening it fails, as everything does on a disk that can only be read
    journal = Journal(home / "journal.db")
    journal.intend_erasure("user-05")  # what a kill leaves
    journal.close()
    for written in ([["first"]], [["first"], ["second"]]):
        with shop_server(home, graph) as (_, client):
            with pytest.raises(ServerUnavailableError, match="can't be rewritten") as unfinished:
                client.erase_user("user-07")
            assert unfinished.value.reason == "ERASURE_UNFINISHED"
            for user_id in ("user-05", "user-07"):
                assert graph.read("MATCH (u:User {id: $user}) RETURN count(u)", user=user_id) == [[0]]
                until(lambda user_id=user_id: client.recommend(user_id, k=1).user_state == common_pb2.USER_STATE_COLD)
            client.write_event(event("user-06", "product-09", event_id=written[-1][0]))
            until(
                lambda written=written: graph.read("MATCH ()-[r:VIEWED]->() RETURN r.event_id ORDER BY r.at") == written
            )
    assert files_with(home, "user-07") != []
    lock.rmdir()
    with shop_server(home, graph) as (_, client):
        assert client.recommend("user-07", k=1).user_state == common_pb2.USER_STATE_COLD
    assert files_with(home, "user-05") == files_with(home, "user-07") == []


def test_snapshots_that_can_only_be_read_are_left_alone_where_nobody_erased_is_in_them(home: Path) -> None:
    from kg.erasure import Erasure
    from kg.errors import SnapshotError

    (home / "snapshots" / ".erasing.lock").mkdir()
    assert redact_all(home / "snapshots", [Erasure(user_key("nobody"), 1, 0)]) == 0
    with pytest.raises(SnapshotError, match="can't be rewritten"):
        redact_all(home / "snapshots", [Erasure(user_key("user-09"), 1, 0)])


def test_neither_an_older_snapshot_nor_an_older_graph_brings_an_erased_user_back(
    home: Path, shop: Shop, graph: Graph
) -> None:
    graph.load(tables())
    with shop_server(home, graph) as (_, client):
        client.erase_user("user-08")
    # Yesterday's backup of both is put back.
    name = next(path.name for path in (shop.home / "snapshots").iterdir() if path.is_dir())
    import shutil

    shutil.rmtree(home / "snapshots" / name)
    shutil.copytree(shop.home / "snapshots" / name, home / "snapshots" / name)
    graph.write("MATCH (n) DETACH DELETE n")
    graph.load(tables())
    with shop_server(home, graph) as (_, client):
        assert client.recommend("user-08", k=1).user_state == common_pb2.USER_STATE_COLD
        until(lambda: graph.read("MATCH (u:User {id: 'user-08'}) RETURN count(u)") == [[0]])
    assert files_with(home, "user-08") == []
    assert graph.read("MATCH (e:Erasure) RETURN e.user") == [[user_key("user-08")]]


def test_a_redacted_snapshot_is_whole_and_keeps_everybody_else(home: Path, shop: Shop) -> None:
    from kg.erasure import Erasure

    folder = next(path for path in (home / "snapshots").iterdir() if path.is_dir())
    assert redact_all(home / "snapshots", [Erasure(user_key("user-09"), 1, 0)]) == 1
    assert redact_all(home / "snapshots", [Erasure(user_key("user-09"), 1, 0)]) == 0
    before, after = shop.snapshot, Snapshot.open(folder)  # checks every file
    assert after.content_hash == before.content_hash
    gone = before.users.index("user-09")
    for index, user_id in enumerate(before.users.array.to_pylist()):
        rows = before.histories.rows(index), after.histories.rows(index)
        if index == gone:
            assert after.users.id(index).startswith("erased-")
            assert rows[1].start == rows[1].stop
        else:
            assert after.users.id(index) == user_id
            assert (before.histories.product_index[rows[0]] == after.histories.product_index[rows[1]]).all()


def test_user_ids_are_checked(served: str) -> None:
    from kgrank.v1.user_service_pb2 import EraseUserRequest
    from kgrank.v1.user_service_pb2_grpc import UserServiceStub

    with grpc.insecure_channel(served) as channel, pytest.raises(grpc.RpcError) as refused:
        UserServiceStub(channel).EraseUser(EraseUserRequest(user_id="a\nb"), timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
