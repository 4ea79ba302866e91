"""Who is answered by which model: shares, shadow, the way back; over restarts, without a dropped call."""

import asyncio
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import structlog

from kg.store import Graph
from kgrank.client import Client
from kgrank.errors import InvalidRequestError, NotFoundError, RefusedError
from kgrank.v1.model_service_pb2 import Traffic as TrafficMessage
from server.engine import Engine
from server.lineup import Lineup
from server.models import ModelFolder
from server.question import Question
from server.shadow import Shadow
from server.traffic import Share, Traffic, place, read_traffic
from tests.server.running import activate, running, serving_of
from tests.server.shop import Shop, tables
from tests.waiting import until

USERS = [f"user-{number:02}" for number in range(40)]


def test_a_user_s_model_is_stable_and_shares_have_their_size() -> None:
    traffic = Traffic("a", (Share("b", 10), Share("c", 25.5)))
    users = [f"visitor-{number}" for number in range(20_000)]
    first = Counter(traffic.model_for(user) for user in users)
    assert first == Counter(traffic.model_for(user) for user in users)
    shares = {name: 100 * count / len(users) for name, count in first.items()}
    assert shares == pytest.approx({"a": 64.5, "b": 10, "c": 25.5}, abs=1)
    assert traffic.model_for("") == "a"
    # Known answers: a later version must send the same people to the same models.
    assert [round(place(user), 3) for user in ("17", "user-007", "小明")] == KNOWN_PLACES


KNOWN_PLACES = [18.397, 69.843, 9.102]


def test_a_larger_share_keeps_the_users_that_it_had() -> None:
    users = [f"visitor-{number}" for number in range(5_000)]
    small, large = Traffic("a", (Share("b", 10),)), Traffic("a", (Share("b", 30),))
    assert {user for user in users if small.model_for(user) == "b"} < {
        user for user in users if large.model_for(user) == "b"
    }


def test_traffic_is_read_as_it_was_written_and_nonsense_is_none() -> None:
    traffic = Traffic("a", (Share("b", 12.5),), "c", ("x", "y"))
    assert read_traffic(traffic.as_json()) == traffic
    assert read_traffic("20300101-abc\n") == Traffic("20300101-abc")
    for nonsense in ("", "{", "{}", '{"active": "a", "shares": [{}], "shadow": null, "before": [], "commit": 0}'):
        assert read_traffic(nonsense) is None
    assert read_traffic(Traffic("a", (Share("a", 5),), "a").as_json()) == Traffic("a")


def test_shares_answer_their_users_and_end_with_an_activation(home: Path, shop: Shop) -> None:
    old, new = shop.versions
    with running(home) as server, Client(server.target) as client:
        client.activate_model(f"models/{old}")
        client.set_traffic({f"models/{new}": 40})
        told = client.get_traffic()
        assert (told.active, [(each.model, each.percent) for each in told.shares]) == (
            f"models/{old}",
            [(f"models/{new}", 40)],
        )
        for user in USERS:
            expected = new if place(user) < 40 else old
            assert client.recommend(user, k=2).model_version == expected
            assert client.rank(user, ["product-01", "product-02"]).model_version == expected
            assert client.explain(user, "product-01").model_version == expected
        assert client.recommend("", k=2).model_version == old
        assert sum(model.active for model in client.list_models().models) == 1
    with running(home) as server, Client(server.target) as client:
        until(lambda: bool(client.get_traffic().shares))
        assert {client.recommend(user, k=1).model_version for user in USERS} == {old, new}
        client.activate_model(f"models/{new}")
        assert not client.get_traffic().shares
        assert {client.recommend(user, k=1).model_version for user in USERS} == {new}


def test_rolling_back_leads_to_the_model_before_over_a_restart(home: Path, shop: Shop) -> None:
    old, new = shop.versions
    (home / "artifacts" / "ACTIVE").write_text(old)
    with running(home) as server, Client(server.target) as client:
        with pytest.raises(RefusedError) as refused:
            client.roll_back_model()
        assert refused.value.reason == "NO_MODEL_BEFORE"
        client.activate_model(f"models/{new}")
    with running(home) as server, Client(server.target) as client:
        assert client.recommend("user-01").model_version == new
        assert client.roll_back_model().name == f"models/{old}"
        assert client.recommend("user-01").model_version == old
        with pytest.raises(RefusedError):
            client.roll_back_model()


def test_refused_traffic_names_its_fields_and_changes_nothing(home: Path, shop: Shop) -> None:
    old, new = (f"models/{version}" for version in shop.versions)
    with running(home) as server, Client(server.target) as client:
        client.activate_model(old)
        for shares, shadow, fields in (
            ({new: 0}, "", {"traffic.shares[0].percent"}),
            ({new: float("nan")}, "", {"traffic.shares[0].percent"}),
            ({new: 60, "models/other": 60}, "", {"traffic.shares"}),
            ({old: 10}, "", {"traffic.shares[0].model"}),
            ({new: 10}, new, {"traffic.shadow"}),
            ({}, old, {"traffic.shadow"}),
            ({"nameless": 10}, "models/../x", {"traffic.shares[0].model", "traffic.shadow"}),
            ({f"models/{number}": 1 for number in range(9)}, "", {"traffic.shares"}),
        ):
            with pytest.raises(InvalidRequestError) as invalid:
                client.set_traffic(shares, shadow=shadow)
            assert {violation.field for violation in invalid.value.violations} == fields
        with pytest.raises(NotFoundError):
            client.set_traffic({"models/no-such-model": 10})
        tensors = home / "artifacts" / shop.versions[1] / "tensors.safetensors"
        tensors.write_bytes(b"damaged")
        with pytest.raises(RefusedError, match="damaged"):
            client.set_traffic({}, shadow=new)
        assert client.get_traffic() == TrafficMessage(active=old)
        assert client.recommend("user-01").model_version == shop.versions[0]


def test_a_shadow_is_measured_and_never_served(home: Path, shop: Shop) -> None:
    old, new = shop.versions
    with running(home) as server, Client(server.target) as client:
        client.activate_model(f"models/{old}")
        client.set_traffic({}, shadow=f"models/{new}")
        for user in USERS[:10]:
            assert client.recommend(user, k=5).model_version == old
            assert client.rank(user, ["product-01", "product-02", "product-03"]).model_version == old
        until(lambda: client.get_traffic().shadow_comparison.answers == 20)
        measured = client.get_traffic().shadow_comparison
        assert 0 <= measured.overlap <= 1
        assert -1 <= measured.rank_correlation <= 1
        assert measured.latency_ms > 0
        # It comes into service, and leaves its own thread for that.
        client.activate_model(f"models/{new}")
        assert client.recommend("user-01").model_version == new
        assert client.get_traffic() == TrafficMessage(active=f"models/{new}")


def test_a_shadow_of_the_served_model_agrees_with_it(home: Path) -> None:
    async def run() -> None:
        with serving_of(home) as (serving, journal), serving_of(home, "other.db") as (other, other_journal):
            version = ModelFolder(home / "artifacts").manifests()[0].model_version
            engine, twin = await activate(serving, version, journal), await activate(other, version, other_journal)
            shadow = Shadow(twin, lambda: False)
            for user in USERS[:5]:
                shadow.observe(engine, question := Question(user, 7), await serving.answer(engine, question))
            while shadow.comparison.answers < 5:
                await asyncio.sleep(0.01)
            assert shadow.comparison.means() | {"latency_ms": 0} == pytest.approx(
                {"overlap": 1, "rank_correlation": 1, "score_difference": 0, "latency_ms": 0}, abs=1e-6
            )
            await shadow.close()

    asyncio.run(run())


def test_while_the_server_is_busy_a_shadow_waits_and_lets_the_oldest_go(home: Path) -> None:
    async def run() -> None:
        with serving_of(home) as (serving, journal):
            version = ModelFolder(home / "artifacts").manifests()[0].model_version
            engine, question = await activate(serving, version, journal), Question("user-01", 3)
            ranking = await serving.answer(engine, question)
            busy = True
            shadow = Shadow(engine, lambda: busy)
            for _ in range(100):
                shadow.observe(engine, question, ranking)
            await asyncio.sleep(0)
            assert shadow.comparison.answers == 0
            busy = False
            while shadow.comparison.answers + shadow.comparison.skipped < 100:
                await asyncio.sleep(0.01)
            assert shadow.comparison.skipped > 0
            await shadow.close()

    asyncio.run(run())


async def gone(*engines: "weakref.ref[Engine]") -> None:
    # No collection is needed, only that the thread which loaded puts its arguments down.
    deadline = time.monotonic() + 60
    while any(engine() is not None for engine in engines):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_a_swap_has_two_engines_in_memory_and_then_one(home: Path, shop: Shop) -> None:
    async def run() -> None:
        with serving_of(home) as (serving, journal):
            engines = [weakref.ref(await activate(serving, shop.versions[0], journal))]
            for version in (shop.versions[1], shop.versions[0], shop.versions[1]):
                with serving.admitted(reasons=False) as running_call:
                    engines.append(weakref.ref(await activate(serving, version, journal)))
                    # The call that runs keeps its own; the new one answers already.
                    assert [engine() is not None for engine in engines[-2:]] == [True, True]
                    assert running_call.model_version != serving.active
                del running_call
                await gone(*engines[:-1])
            old = serving.lineup
            trial = old.traffic.with_trials((Share(shop.versions[0], 50),), None)
            lineup: Lineup | None = await serving.change_traffic(lambda _: trial, journal)
            assert lineup is not None
            engines.append(weakref.ref(lineup.engines[shop.versions[0]]))
            assert lineup.active is old.active
            del lineup
            await serving.change_traffic(lambda now: (now or trial).with_trials((), None), journal)
            await gone(engines[-1])

    asyncio.run(run())


def test_no_call_fails_while_trials_come_and_go(home: Path, shop: Shop) -> None:
    old, new = (f"models/{version}" for version in shop.versions)
    with running(home) as server:
        done = threading.Event()
        failures: list[Exception] = []
        answers: Counter[str] = Counter()

        def ask(number: int) -> None:
            with Client(server.target) as client:
                while not done.is_set():
                    try:
                        answers[client.recommend(f"user-{number:02}", k=3).model_version] += 1
                    except Exception as error:
                        failures.append(error)

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in asking:
            thread.start()
        with Client(server.target, timeout_s=30) as client:
            client.activate_model(old)
            for _ in range(2):
                client.set_traffic({new: 50})
                client.set_traffic({}, shadow=new)
                client.activate_model(new)
                client.roll_back_model()
        done.set()
        for thread in asking:
            thread.join()
    assert not failures
    assert set(answers) == set(shop.versions)


@pytest.mark.neo4j
def test_servers_that_share_a_folder_of_artifacts_hear_of_every_change(home: Path, shop: Shop, graph: Graph) -> None:
    graph.load(tables())
    beside = home.with_name("beside")
    beside.mkdir()
    for name in ("artifacts", "snapshots", "cache"):
        (beside / name).symlink_to(home / name)
    old, new = (f"models/{version}" for version in shop.versions)
    with (
        running(home, lambda: nullcontext(graph)) as first,
        running(beside, lambda: nullcontext(graph)) as second,
        Client(first.target, timeout_s=30) as one,
        Client(second.target, timeout_s=30) as two,
    ):
        for model in (old, new, old):
            one.activate_model(model)
            until(lambda model=model: two.get_traffic().active == model)  # type: ignore[misc]  # of this round


@pytest.mark.neo4j
def test_every_server_hears_of_a_change_and_the_later_one_wins(
    home: Path, shop: Shop, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.switch._FIRST_RETRY_S", 0.2)
    graph.load(tables())
    other_home = Path(shutil.copytree(home, home.with_name("other")))
    old, new = (f"models/{version}" for version in shop.versions)

    @contextmanager
    def connect() -> Iterator[Graph]:
        yield graph

    with (
        running(home, connect) as first,
        running(other_home, connect) as second,
        Client(first.target, timeout_s=30) as one,
        Client(second.target, timeout_s=30) as two,
    ):
        one.activate_model(old)
        until(lambda: two.get_traffic().active == old)
        two.set_traffic({new: 30})
        until(lambda: one.get_traffic() == two.get_traffic())
        assert [share.percent for share in one.get_traffic().shares] == [30]
        asked = [one.recommend(user, k=1).model_version for user in USERS]
        assert asked == [two.recommend(user, k=1).model_version for user in USERS]
        assert len(set(asked)) == 2
        one.activate_model(new)
        until(lambda: two.get_traffic().active == new and not two.get_traffic().shares)
        two.roll_back_model()
        until(lambda: one.get_traffic().active == old)
        # An artifact that comes later than the news of it is served once it is there.
        await_it = other_home / "artifacts" / shop.versions[1]
        aside = await_it.rename(other_home / "aside")
        two.activate_model(old)
        with structlog.testing.capture_logs() as logged:
            one.activate_model(new)
            until(lambda: any(each["event"] == "traffic_not_followed" for each in logged))
        assert two.get_traffic().active == old
        aside.rename(await_it)
        until(lambda: two.get_traffic().active == new)
        two.activate_model(old)
        until(lambda: one.get_traffic().active == old)
    # A restart has had all of these already, and hears none of them again.
    with running(home, connect) as first, Client(first.target) as one:
        assert one.get_traffic().active == old
