"""What a user has searched for counts in later answers, fades, and goes with the user."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from kg.store import Graph
from kgrank.client import Client
from kgrank.v1 import common_pb2
from kgrank.v1.common_pb2 import Context
from kgrank.v1.ranking_service_pb2 import RecommendResponse
from model.artifact import load_artifact
from server.past_searches import KEPT_OF_A_USER, PastSearch, PastSearches
from server.search.finder import Finder
from server.searches_following import SearchesFollowing
from tests.server.running import running
from tests.server.shop import Shop, tables
from tests.waiting import until

HOUR_MS = 3_600_000
WEIGHT = 5.0


class Clock:
    """A moment that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


def searched(past: PastSearches, clock: Clock, *queries: str) -> None:
    past.note("ann", [PastSearch(query, clock.ms) for query in queries])


def test_a_search_counts_in_full_then_half_and_then_not_at_all() -> None:
    clock = Clock()
    past = PastSearches(24, clock)
    searched(past, clock, "lamp")
    assert past.of("ann") == (("lamp", 1.0),)
    clock.ms += 24 * HOUR_MS
    assert past.of("ann") == (("lamp", 0.5),)
    clock.ms += 48 * HOUR_MS
    assert past.of("ann") == (("lamp", 0.125),)
    clock.ms += 72 * HOUR_MS
    assert past.of("ann") == ()
    assert past.of("bob") == ()


def test_the_same_words_count_once_from_the_last_time_and_the_latest_are_kept() -> None:
    clock = Clock()
    past = PastSearches(24, clock)
    searched(past, clock, "lamp")
    clock.ms += 24 * HOUR_MS
    past.note("ann", [PastSearch("lamp", clock.ms), PastSearch("chair", clock.ms - 24 * HOUR_MS)])
    assert past.of("ann") == (("lamp", 1.0), ("chair", 0.5))
    past.note("ann", [PastSearch("lamp", clock.ms - 24 * HOUR_MS)])  # heard of once more, from the graph
    assert past.of("ann")[0] == ("lamp", 1.0)
    searched(past, clock, *(f"thing {number}" for number in range(9)))
    assert len(past.of("ann")) == KEPT_OF_A_USER
    past.forget("ann")
    assert (past.of("ann"), past.users()) == ((), set())


def test_who_is_erased_while_searches_are_read_stays_forgotten() -> None:
    past = PastSearches(24, Clock())

    class Link:
        async def follow(self, work: object) -> list[list[object]]:
            past.forget("ann")  # her erasure is finished between the reading and the noting
            return [["ann", "lamp", Clock().ms], ["bob", "chair", Clock().ms]]

    asyncio.run(SearchesFollowing(Link(), past).follow(3))  # type: ignore[arg-type]  # a graph that answers at will
    assert past.users() == {"bob"}
    past.note("ann", [PastSearch("chair", Clock().ms)])  # what she searches for later is hers
    assert past.users() == {"ann", "bob"}


def test_searches_are_read_once_more_only_where_the_graph_is_another() -> None:
    read: list[tuple[int, int]] = []

    class Noting:
        def read(self, query: str, *, after: int, until: int, most: int) -> list[list[object]]:
            read.append((after, until))
            return []

    class Link:
        async def follow(self, work: Callable[[Noting], object]) -> object:
            return work(Noting())

    async def run() -> None:
        following = SearchesFollowing(Link(), PastSearches(24, Clock()))  # type: ignore[arg-type]  # a graph that tells
        for commit in (5, 5, 2, 4, 5, 6):  # the follower goes back for a snapshot that is behind
            await following.follow(commit)
        assert read == [(0, 5), (5, 6)]
        for commit in (0, 4, 6):
            await following.follow(commit)

    asyncio.run(run())
    assert read[2:] == [(0, 4), (4, 6)]


def test_memory_is_bounded_and_who_has_searched_longest_ago_goes_first() -> None:
    clock = Clock()
    past = PastSearches(24, clock, most_bytes=20_000)
    for number in range(100):
        past.note(f"user-{number}", [PastSearch("x" * 1000, clock.ms)])
        past.note("regular", [PastSearch("lamp", clock.ms + number)])
    assert {"regular", "user-99"} < past.users()
    assert 5 < len(past.users()) < 20
    for user_id in past.users():
        past.forget(user_id)
    assert past._bytes == 0


def test_a_search_from_a_clock_that_runs_ahead_counts_as_one_of_now() -> None:
    clock = Clock()
    past = PastSearches(24, clock)
    past.note("ann", [PastSearch("lamp", clock.ms + HOUR_MS)])
    assert past.of("ann") == (("lamp", 1.0),)


def test_searches_share_one_weight_and_a_faded_one_leans_less(shop: Shop) -> None:
    artifact = load_artifact(shop.home / "artifacts" / shop.versions[0])
    finder = Finder.build(artifact, shop.snapshot, shop.home / "cache")
    assert finder.encoder is not None
    acme, thing = finder.encoder.encode(["acme", "thing"])
    assert finder.lean([("acme", 1.0)]) == pytest.approx(acme, abs=1e-6)
    assert finder.lean([("acme", 0.25)]) == pytest.approx(acme / 4, abs=1e-6)
    assert finder.lean([("acme", 1.0), ("thing", 0.5)]) == pytest.approx((acme + thing / 2) / 1.5, abs=1e-6)
    assert finder.lean([]) is None


def query_part(answer: RecommendResponse) -> list[float]:
    return [each.components.query for each in answer.results]


def test_a_search_changes_the_next_recommendations_and_says_so(home: Path, shop: Shop) -> None:
    artifact = load_artifact(shop.home / "artifacts" / shop.versions[-1])
    finder = Finder.build(artifact, shop.snapshot, shop.home / "cache")
    assert finder.encoder is not None
    [wanted] = finder.encoder.encode(["bolt kind 3"])
    cosine = artifact.scorer.matrix[:, artifact.scorer.blocks["text"]].numpy() @ wanted
    with running(home, past_search_weight=WEIGHT) as server, Client(server.target) as client:
        before = client.recommend("user-02", k=84)
        client.search("bolt kind 3", user_id="user-02", k=3)
        after = client.recommend("user-02", k=84)
        parts = {each.product_id: each.components for each in before.results}
        ratio = []
        for each in after.results:
            told, known = each.components, parts[each.product_id]
            whole = sum(getattr(told, part.name) for part in told.DESCRIPTOR.fields)
            assert whole == pytest.approx(each.score, abs=1e-3)
            assert (told.text, told.graph) == pytest.approx((known.text, known.graph), abs=1e-3)
            of_product = cosine[shop.snapshot.products.index(each.product_id)]
            if abs(of_product) > 0.05:
                ratio.append(told.query / of_product)
        # What is added is the weight, times a deviation of the user's scores, times the cosine with the query.
        assert np.ptp(ratio) < 0.01 * np.mean(ratio)
        assert before.user_state == after.user_state == common_pb2.USER_STATE_WARM
        assert [each.product_id for each in after.results] != [each.product_id for each in before.results]
        first = after.results[0].product_id
        explained = client.explain("user-02", first)
        assert (explained.rank, explained.result.components.query) == (1, pytest.approx(query_part(after)[0], abs=1e-3))
        ranked = client.rank("user-02", [first, after.results[-1].product_id])
        assert [each.product_id for each in ranked.results] == [first, after.results[-1].product_id]


def test_a_stranger_who_has_searched_is_known_by_that(home: Path) -> None:
    with running(home, past_search_weight=WEIGHT) as server, Client(server.target) as client:
        assert client.recommend("stranger", k=3).user_state == common_pb2.USER_STATE_COLD
        client.search("bolt", user_id="stranger", k=3)
        answer = client.recommend("stranger", k=3)
        assert answer.user_state == common_pb2.USER_STATE_FEW_EVENTS
        assert all(query_part(answer))


def test_what_is_asked_for_now_stands_before_what_was_searched_for(home: Path) -> None:
    with running(home, past_search_weight=WEIGHT) as server, Client(server.target) as client:
        searched = [client.search("acme", user_id="user-02", k=5) for _ in range(2)]
        assert [each.score for each in searched[0].results] == [each.score for each in searched[1].results]
        with_query = [client.recommend(user, k=5, context=Context(query="bolt")) for user in ("user-02", "user-02")]
        assert query_part(with_query[0]) == query_part(with_query[1])


@pytest.mark.parametrize("settings", [{"past_search_weight": 0}, {"past_search_weight": WEIGHT, "search": True}])
def test_searches_that_are_not_to_count_do_not(home: Path, settings: dict[str, float]) -> None:
    with running(home, **settings) as server, Client(server.target) as client:
        before = client.recommend("user-02", k=9)
        client.search("bolt", user_id="user-02", k=3, untracked=bool(settings["past_search_weight"]))
        client.search("bolt", k=3)
        after = client.recommend("user-02", k=9)
        assert [each.score for each in after.results] == [each.score for each in before.results]
        assert query_part(after) == [0.0] * 9


@pytest.mark.neo4j
def test_searches_reach_other_servers_and_later_ones_until_the_user_is_erased(home: Path, graph: Graph) -> None:
    graph.load(tables())
    other_home = home.with_name("other-home")
    other_home.mkdir()
    for part in ("artifacts", "snapshots", "cache"):
        (other_home / part).symlink_to(home / part)

    def counts(client: Client) -> bool:
        return any(query_part(client.recommend("ann", k=3)))

    with running(home, lambda: nullcontext(graph), past_search_weight=WEIGHT) as server, Client(server.target) as one:
        one.search("bolt", user_id="ann", k=3)
        assert counts(one)
        until(lambda: graph.read("MATCH (:User {id: 'ann'})-[s:SEARCHED]->() RETURN count(s)") == [[1]])
        with (
            running(other_home, lambda: nullcontext(graph), past_search_weight=WEIGHT) as later,
            Client(later.target) as other,
        ):
            until(lambda: counts(other))
            other.search("acme", user_id="bob", k=3)
            until(lambda: any(query_part(one.recommend("bob", k=3))))
            one.erase_user("ann")
            until(lambda: not counts(one) and not counts(other))
            assert one.recommend("ann", k=3).user_state == common_pb2.USER_STATE_COLD
