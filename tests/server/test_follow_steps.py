"""The follower by itself, over a real graph: graphs that were put back or lag, and how far it has come."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kg.commits import MARGIN, Change, ChangeKind, CommittedEvent
from kg.rules import Action, Rule, Target, upsert_rule
from kg.store import Graph
from server.follow import Follower, Histories
from server.graph_link import GraphLink
from server.journal import Journal
from server.journal_file import COMMIT
from server.memory import Memory
from tests.kg.small_tables import event, tables

pytestmark = pytest.mark.neo4j


class Behind(Graph):
    """A graph of which the member that is asked has not heard of the latest commits, as of a cluster one may."""

    @property
    def last_commit(self) -> int:
        return 99


class Heard:
    """Histories that have nothing yet."""

    def __init__(self) -> None:
        self.followed, self.pages = -1, 0
        self.event_ids: list[str] = []

    def restart(self) -> None:
        self.followed = -1

    def unknown(self, events: Sequence[CommittedEvent]) -> list[CommittedEvent]:
        return list(events)

    def follow(self, events: Sequence[CommittedEvent], after: int, until: int) -> None:
        self.event_ids += [each.event_id for each in events]
        self.followed, self.pages = until, self.pages + 1


class Following:
    """A follower of a graph, and the ids of the rules that it heard of."""

    def __init__(self, graph: Graph, journal: Journal, histories: Histories | None = None) -> None:
        self.rules: list[str] = []
        self._link: GraphLink[Graph] = GraphLink(lambda: nullcontext(graph), self._opening)
        self.follower = Follower(self._link, histories or Memory(list, journal), journal)
        self.follower.on(ChangeKind.RULE, self._heard)

    def _opening(self, graph: Graph) -> None:
        self.follower.reopened(graph)

    async def _heard(self, changes: Sequence[Change]) -> None:
        self.rules += [each.key for each in changes]

    def run(self, after: int, then: "Callable[[Following], Awaitable[None]]") -> None:
        """Follow from a commit until something was waited for."""

        async def run() -> None:
            async with asyncio.timeout(60):
                self.follower.start(after)
                self._link.start()
                await then(self)
                await self.follower.stop()

        try:
            asyncio.run(run())
        finally:
            self._link.close()


def rule(graph: Graph, rule_id: str) -> None:
    """Write a rule, as another server does."""
    upsert_rule(graph, Rule(rule_id, Action.BLOCK, Target.PRODUCT, "a"))


async def soon(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.01)


def test_what_is_written_after_a_graph_was_put_back_is_followed_by_who_has_heard_of_more(
    tmp_path: Path, graph: Graph
) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.note(COMMIT, 1002)  # a server notes every five seconds only
    graph.advance_commits(50)
    Following(graph, journal).follower.reopened(graph)
    for number in range(10):
        rule(graph, f"{number}")
    Following(graph, journal).run(1010, lambda other: soon(lambda: len(other.rules) == 10))
    journal.close()


def test_a_server_that_has_heard_of_more_than_it_noted_begins_anew_with_a_graph_that_was_put_back(
    tmp_path: Path, graph: Graph
) -> None:
    journal = Journal(tmp_path / "journal.db")
    rule(graph, "old")
    with capture_logs() as logged:
        Following(graph, journal).run(1010, lambda it: soon(lambda: it.rules == ["old"]))
    journal.close()
    assert graph.last_commit == 1010 + MARGIN
    assert [each["applied"] for each in logged if each["event"] == "graph_went_back"] == [1010]


def test_numbers_that_were_passed_over_are_no_pages(tmp_path: Path, graph: Graph) -> None:
    journal, heard = Journal(tmp_path / "journal.db"), Heard()
    graph.append_events(tables(interactions=[event("e1", "u", "a")]).interactions, "server-1", 1)
    graph.advance_commits(1000, MARGIN)
    rule(graph, "new")
    graph.append_events(tables(interactions=[event("e2", "u", "a")]).interactions, "server-1", 2)
    Following(graph, journal, heard).run(0, lambda it: soon(lambda: it.follower.caught_up))
    journal.close()
    assert (heard.event_ids, heard.followed) == (["e1", "e2"], graph.last_commit)
    assert heard.pages <= 3


def test_a_member_of_a_cluster_that_lags_is_no_graph_that_was_put_back(tmp_path: Path, graph: Graph) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.note(COMMIT, 100)
    graph.advance_commits(100)
    rule(graph, "new")
    lagging = Behind(graph._driver, graph._database, graph.place)
    with capture_logs() as logged:
        Following(lagging, journal).run(100, lambda it: soon(lambda: it.rules == ["new"] and it.follower.caught_up))
    journal.close()
    assert graph.last_commit == 101
    assert {"graph_went_back", "commits_advanced"}.isdisjoint(each["event"] for each in logged)


def test_a_catalogue_that_always_changes_keeps_no_server_behind(tmp_path: Path, graph: Graph) -> None:
    journal = Journal(tmp_path / "journal.db")
    rule(graph, "first")
    following = Following(graph, journal)
    follower = following.follower
    follower.waits_of = lambda: graph.last_commit  # what was changed last always waits

    async def changing(_: Following) -> None:
        await soon(lambda: follower.applied == 1)
        assert not follower.caught_up
        rule(graph, "second")
        follower.nudge()
        await soon(lambda: follower.caught_up)  # with the first

    following.run(0, changing)
    journal.close()
