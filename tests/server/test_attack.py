"""Under attack: any request ends in an answer or a refusal, soon, and neither breaks, leaks nor tells of the inside.

The long form, `make chaos`, sends 100,000 requests; the short one here sends fewer of the same.
"""

import asyncio
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.store import Graph
from kgrank.client import Client, event, product
from kgrank.errors import CallError
from kgrank.v1.ranking_service_pb2 import RankRequest, RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from kgrank.v1.user_service_pb2 import GetUserProfileRequest
from kgrank.v1.user_service_pb2_grpc import UserServiceStub
from tests.conftest import empty
from tests.server.accepted_requests import ATTACKED, accepted_requests
from tests.server.attack import (
    INJECTIONS,
    LEAKS,
    UNFORGIVEN,
    attacked,
    is_repeated,
    mutated,
    outcome,
    request_for,
    storm,
)
from tests.server.frames import HELLO, frame, headers, settings_frame
from tests.server.methods import methods
from tests.server.running import running
from tests.server.shop import Shop, tables
from tests.waiting import until

pytestmark = [pytest.mark.xdist_group("attack"), pytest.mark.neo4j]

ALONE = [("grpc.use_local_subchannel_pool", 1)]
"""A channel with a connection of its own: those of one process share theirs otherwise."""

SHORT = 400
LONG = 100_000
MOST_GROWTH = 0.10


@dataclass(frozen=True)
class Attacked:
    """A server in a process of its own, with a real graph, for others to attack."""

    target: str
    process: psutil.Process
    log: Path
    graph: Graph


@pytest.fixture(scope="module")
def victim(
    shop: Shop, shared_graph: Graph, graph_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attacked]:
    home = Path(shutil.copytree(shop.home, tmp_path_factory.mktemp("attacked") / "home"))
    (home / "graph").symlink_to(graph_folder)
    empty(shared_graph)
    shared_graph.load(tables())
    with attacked(home) as (target, process, log):
        yield Attacked(target, process, log, shared_graph)
    empty(shared_graph)


def still_serves(victim: Attacked) -> None:
    assert victim.process.is_running()
    with Client(victim.target, timeout_s=30) as client:
        assert client.recommend("somebody", k=3).results


# --- any request, any bytes


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False), method=st.sampled_from(methods()), spoilt=st.booleans())
def test_any_request_to_any_call_is_answered_or_refused(
    victim: Attacked, random: Random, method: object, spoilt: bool
) -> None:
    made = request_for(random, method.input_type).SerializeToString()  # type: ignore[attr-defined]

    async def sent() -> tuple[grpc.StatusCode, str]:
        async with grpc.aio.insecure_channel(victim.target) as channel:
            return await outcome(channel, victim.target, method, [mutated(random, made) if spoilt else made])  # type: ignore[arg-type]

    code, said = asyncio.run(sent())
    assert code not in UNFORGIVEN, said
    assert not any(leak in said for leak in LEAKS), said


def test_a_storm_of_requests_breaks_and_leaks_nothing(victim: Attacked) -> None:
    seen = weathered(victim, SHORT, seed=int(time.time()))
    assert any(name.endswith(" OK") for name in seen)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests_break_and_leak_nothing(victim: Attacked) -> None:
    seen = weathered(victim, LONG, seed=2, excused=("GRAPH_BUSY",))
    answered = {name.removesuffix(" OK") for name in seen if name.endswith(" OK")}
    assert {method.name for method in methods()} - answered <= NEVER_OK
    # Products that come and go are rows until the next snapshot; what leaves the catalogue alone must leave nothing.
    calm = [method for method in methods() if method.containing_service.name != "CatalogService"]
    asyncio.run(storm(victim.target, calm, 5_000, seed=3, log=victim.log))
    before = victim.process.memory_info().rss
    asyncio.run(storm(victim.target, calm, 20_000, seed=4, log=victim.log))
    grown = victim.process.memory_info().rss / before - 1
    assert grown < MOST_GROWTH, f"memory has grown by {grown:.1%}"


NEVER_OK = {"ActivateModel", "RollBackModel"}
"""Calls that no request of chance can have answered: none names a model that there is, so there is no way back."""


def weathered(victim: Attacked, count: int, seed: int, excused: Sequence[str] | None = None) -> Counter[str]:
    files, threads = victim.process.num_fds(), victim.process.num_threads()
    seen = asyncio.run(storm(victim.target, methods(), count, seed, excused=excused, log=victim.log))
    assert sum(seen.values()) == count
    still_serves(victim)
    until(lambda: victim.process.num_fds() <= files + 20)
    until(lambda: victim.process.num_threads() <= threads + 20)
    assert "Traceback" not in victim.log.read_text()
    assert victim.graph.read("MATCH (n:Hacked) RETURN count(n)") == [[0]]
    return seen


def test_a_profile_of_a_moment_without_events_is_empty(victim: Attacked) -> None:
    with grpc.insecure_channel(victim.target) as channel:
        asked = GetUserProfileRequest(user_id="user-03", window=Duration(seconds=1))
        profile = UserServiceStub(channel).GetUserProfile(asked, timeout=30).profile
    assert (profile.interaction_count, len(profile.interests)) == (0, 0)


# --- text that wants to be code


def strings(kind: Descriptor, depth: int = 0) -> Iterator[list[FieldDescriptor]]:
    """Yield the way to every field of text in a message."""
    for field in kind.fields:
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_STRING:
            yield [field]
        elif field.message_type is not None and depth < 3:
            yield from ([field, *rest] for rest in strings(field.message_type, depth + 1))


def put(message: Message, way: list[FieldDescriptor], text: str) -> None:
    """Set a field of text, of the first of its kind where there are several; the rest of the message stays."""
    field, *rest = way
    holder = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        holder.clear()
        holder.update({text: "red"} if rest[0].name == "key" else {"colour": text})
    elif rest:
        put((holder[0] if holder else holder.add()) if is_repeated(field) else holder, rest, text)
    elif is_repeated(field):
        holder[:] = [text]
    else:
        setattr(message, field.name, text)


CLOSED = {"relation", "kind", "paths", "page_token", "language_code"}
"""Fields that take words of their own only: of the injections none but the empty one is one."""

CODE = 8
"""So many of the injections, the first ones, are code of a query or a line of a log."""

PASSED = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
"""What a request ends in that was looked at beyond its form."""


def texts_for(place: int) -> list[str]:
    """Return what breaks queries and logs, and a third of what else is odd: another one for another place."""
    return [*INJECTIONS[:CODE], *INJECTIONS[CODE + place % 3 :: 3]]


def test_text_that_wants_to_be_code_stays_text(victim: Attacked) -> None:
    """In every field of text of every call, the others being right: no query, no log line and no path is made of it."""
    graph = victim.graph
    graph.write("CREATE (:Sentinel)-[:GUARDS]->(:Sentinel)")
    users, products = ids_of(graph, "User"), ids_of(graph, "Product")
    assert users
    assert products
    labels = {label for (label,) in graph.read("CALL db.labels() YIELD label RETURN label")}
    told_before = victim.log.stat().st_size
    passed: dict[str, bool] = {}

    async def sent() -> None:
        by_request = {method.input_type: method for method in methods()}
        async with grpc.aio.insecure_channel(victim.target) as channel:
            for accepted in accepted_requests():
                method = by_request.pop(accepted.DESCRIPTOR)
                code, said = await outcome(channel, victim.target, method, [accepted.SerializeToString()])
                assert code in PASSED, f"{method.name} {code}: {said}"
                if method.name == "UpsertProducts":
                    await known(channel)
                await asyncio.gather(*(one_way(channel, method, accepted, way) for way in strings(method.input_type)))
        assert not [each.name for kind, each in by_request.items() if any(strings(kind))], "a call has no request here"

    async def known(channel: grpc.aio.Channel) -> None:
        asked = RankRequest(product_ids=[ATTACKED])
        while (await RankingServiceStub(channel).Rank(asked, timeout=30)).missing_ids:
            await asyncio.sleep(0.02)

    async def one_way(
        channel: grpc.aio.Channel, method: MethodDescriptor, accepted: Message, way: list[FieldDescriptor]
    ) -> None:
        where = f"{method.name} {'.'.join(field.name for field in way)}"
        texts = texts_for(len(where))
        if method.containing_service.name == "ModelService":
            texts += [f"models/{text}" for text in texts]
        for text in texts:
            request = GetMessageClass(method.input_type)()
            request.CopyFrom(accepted)
            put(request, way, text)
            code, said = await outcome(channel, victim.target, method, [request.SerializeToString()])
            assert code not in UNFORGIVEN, f"{where} {text!r}: {said}"
            assert not any(leak in said for leak in LEAKS), said
            passed[where] = passed.get(where, False) or code in PASSED

    asyncio.run(sent())
    refused = {where.split(" ")[1].rpartition(".")[2] for where, once in passed.items() if not once}
    assert refused <= CLOSED, "these were never looked at beyond their form"
    with Client(victim.target, timeout_s=30) as client:
        client.upsert_products([product("attack-last")])
        until(lambda: not client.rank("", ["attack-last"]).missing_ids)
        client.write_event(event("attack-last", "attack-last"))
    until(lambda: "attack-last" in ids_of(graph, "User"))  # and with it all that was written before
    assert graph.read("MATCH (n:Hacked) RETURN count(n)") == [[0]]
    assert graph.read("MATCH (:Sentinel)-[r:GUARDS]->(:Sentinel) RETURN count(r)") == [[1]]
    # What was erased or deleted by its very name may be gone, and no more.
    assert users <= ids_of(graph, "User") | set(INJECTIONS)
    assert products <= ids_of(graph, "Product") | set(INJECTIONS)
    assert {label for (label,) in graph.read("CALL db.labels() YIELD label RETURN label")} >= labels
    graph.write("MATCH (n:Sentinel) DETACH DELETE n")
    with victim.log.open() as log:
        log.seek(told_before)
        for line in log:
            assert json.loads(line)["event"] != "forged"


def ids_of(graph: Graph, label: str) -> set[str]:
    """Return the ids of the nodes with a label, of products those that are in the catalogue."""
    return {each for (each,) in graph.read(f"MATCH (n:{label}) WHERE n.deleted_at IS NULL RETURN n.id")}


def test_a_request_id_that_wants_to_be_a_log_line_is_left_out(victim: Attacked) -> None:
    for forged in ('r", "event": "forged', "r" * 5000):
        with grpc.insecure_channel(victim.target) as channel, pytest.raises(grpc.RpcError):
            RankingServiceStub(channel).Recommend(
                RecommendRequest(k=-1), metadata=[("x-request-id", forged)], timeout=30
            )
    for line in victim.log.read_text().splitlines():
        told = json.loads(line)
        assert told["event"] != "forged"
        assert len(told.get("request_id", "")) <= 128


# --- too large, too slow, too many


def test_a_message_over_the_limit_is_refused_before_it_is_read(victim: Attacked) -> None:
    with Client(victim.target, timeout_s=30) as client, pytest.raises(CallError) as refused:
        client.rank("user-01", ["x" * 250] * 30_000)  # 7.5 MB
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    still_serves(victim)


def test_clients_that_never_finish_a_request_keep_nobody_out(victim: Attacked) -> None:
    host, _, port = victim.target.partition(":")
    stuck = [socket.create_connection((host, int(port))) for _ in range(60)]
    try:
        for number, each in enumerate(stuck):
            if number % 3:  # a third says nothing at all
                each.sendall(HELLO + settings_frame())
            if number % 3 == 2:  # and these begin a call that they never finish
                half = frame(0, 0, 1, b"\x00\x00\x10\x00\x00half a requ")
                each.sendall(headers("/kgrank.v1.RankingService/Recommend") + half)
        still_serves(victim)
    finally:
        for each in stuck:
            each.close()
    still_serves(victim)


def test_bytes_that_are_no_http_are_no_matter(victim: Attacked) -> None:
    host, _, port = victim.target.partition(":")
    random = Random(3)
    for start in (b"", b"GET / HTTP/1.1\r\n\r\n", HELLO):
        for _ in range(10):
            with socket.create_connection((host, int(port))) as raw:
                raw.settimeout(30)
                with_end = start + random.randbytes(random.randrange(1, 3000))
                raw.sendall(with_end)
    still_serves(victim)


def test_more_calls_at_once_than_a_connection_may_have_wait_and_are_answered(home: Path) -> None:
    async def sent(target: str) -> list[int]:
        async with grpc.aio.insecure_channel(target) as channel:
            stub = RankingServiceStub(channel)
            await stub.Recommend(RecommendRequest(k=3), timeout=60)  # now the client knows how many it may send
            calls = [stub.Recommend(RecommendRequest(user_id=f"user-{n % 40:02}", k=3), timeout=60) for n in range(300)]
            return [len(each.results) for each in await asyncio.gather(*calls)]

    with running(home, max_streams=50, longest_wait_s=60) as server:
        assert asyncio.run(sent(server.target)) == [3] * 300


def test_watchers_without_end_leave_room_for_others(home: Path) -> None:
    with running(home, max_streams=20) as server, grpc.insecure_channel(server.target, options=ALONE) as greedy:
        stub = health_pb2_grpc.HealthStub(greedy)
        asked = health_pb2.HealthCheckRequest(service="")
        watching = [stub.Watch(asked, timeout=60) for _ in range(20)]
        for each in watching:
            next(each)
        watching += [stub.Watch(asked, timeout=60) for _ in range(20)]  # these wait for a place
        with Client(server.target, timeout_s=30) as other:  # a connection of its own
            assert other.recommend("user-01", k=1).results
        for each in watching:
            each.cancel()


def test_more_calls_in_all_than_the_server_takes_are_refused_not_queued(home: Path) -> None:
    with running(home, max_calls=5, max_streams=100) as server, grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=60) for _ in range(5)]
        for each in watching:
            next(each)
        with pytest.raises(grpc.RpcError) as refused:
            RankingServiceStub(channel).Recommend(RecommendRequest(k=1), timeout=30)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        for each in watching:
            each.cancel()


def test_a_caller_that_goes_away_leaves_nothing_behind(victim: Attacked) -> None:
    async def sent() -> None:
        async with grpc.aio.insecure_channel(victim.target) as channel:
            stub = RankingServiceStub(channel)
            calls = [
                stub.Recommend(RecommendRequest(user_id="user-01", k=50, include_reasons=True)) for _ in range(100)
            ]
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(sent())
    still_serves(victim)
