"""Under attack: any request ends in an answer or a refusal, soon, and neither breaks, leaks nor tells of the inside.

The long form, `make chaos`, sends 100,000 requests; the short one here sends fewer of the same.
"""

import asyncio
import json
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import CallError, InvalidRequestError, NotFoundError
from kgrank.v1 import common_pb2
from kgrank.v1.ranking_service_pb2 import RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from kgrank.v1.user_service_pb2 import GetUserProfileRequest
from kgrank.v1.user_service_pb2_grpc import UserServiceStub
from tests.conftest import empty
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
from tests.server.methods import methods
from tests.server.running import running
from tests.server.shop import Shop, tables

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
    weathered(victim, SHORT, seed=int(time.time()))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests_break_and_leak_nothing(victim: Attacked) -> None:
    weathered(victim, LONG, seed=2)
    # Products that come and go are rows until the next snapshot; what leaves the catalogue alone must leave nothing.
    calm = [method for method in methods() if method.containing_service.name != "CatalogService"]
    asyncio.run(storm(victim.target, calm, 5_000, seed=3))
    before = victim.process.memory_info().rss
    asyncio.run(storm(victim.target, calm, 20_000, seed=4))
    grown = victim.process.memory_info().rss / before - 1
    assert grown < MOST_GROWTH, f"memory has grown by {grown:.1%}"


def weathered(victim: Attacked, count: int, seed: int) -> None:
    files, threads = victim.process.num_fds(), victim.process.num_threads()
    seen = asyncio.run(storm(victim.target, methods(), count, seed))
    assert sum(seen.values()) == count
    assert any(name.endswith(" OK") for name in seen)
    still_serves(victim)
    assert victim.process.num_fds() <= files + 20
    assert victim.process.num_threads() <= threads + 20
    assert "Traceback" not in victim.log.read_text()
    assert victim.graph.read("MATCH (n:Hacked) RETURN count(n)") == [[0]]


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
    """Set a field of text, and what leads to it."""
    field, *rest = way
    holder = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        holder[text] = text
    elif rest:
        put(holder.add() if is_repeated(field) else holder, rest, text)
        if field.message_type is not None and not is_repeated(field):
            holder.SetInParent()
    elif is_repeated(field):
        holder.append(text)
    else:
        setattr(message, field.name, text)


def test_text_that_wants_to_be_code_stays_text(victim: Attacked) -> None:
    """In every field of text of every call: no query, no log line and no path is made of it."""
    products = victim.graph.read("MATCH (p:Product) RETURN count(p)")
    labels = set(map(tuple, victim.graph.read("CALL db.labels() YIELD label RETURN label")))
    told_before = victim.log.stat().st_size

    async def sent() -> None:
        async with grpc.aio.insecure_channel(victim.target) as channel:
            random = Random(7)
            for method in methods():
                for way in strings(method.input_type):
                    if method.name in ("DeleteProducts", "EraseUser") and way[-1].name in ("product_ids", "user_id"):
                        continue  # these may do what they say; the storm has them
                    for text in random.sample(INJECTIONS, 3):
                        request = GetMessageClass(method.input_type)()
                        put(request, way, text)
                        code, said = await outcome(channel, victim.target, method, [request.SerializeToString()])
                        assert code not in UNFORGIVEN, f"{method.name} {[f.name for f in way]} {text!r}: {said}"
                        assert not any(leak in said for leak in LEAKS), said

    asyncio.run(sent())
    assert victim.graph.read("MATCH (n:Hacked) RETURN count(n)") == [[0]]
    assert victim.graph.read("MATCH (p:Product) RETURN count(p)")[0][0] >= products[0][0]
    assert {label for (label,) in victim.graph.read("CALL db.labels() YIELD label RETURN label")} >= {
        label for (label,) in labels
    }
    with victim.log.open() as log:
        log.seek(told_before)
        for line in log:
            assert json.loads(line)["event"] != "forged"


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
                each.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
            if number % 3 == 2:  # and these begin a call that they never finish
                each.sendall(frame(1, 4, 1, HEADERS) + frame(0, 0, 1, b"\x00\x00\x10\x00\x00half a requ"))
        still_serves(victim)
    finally:
        for each in stuck:
            each.close()
    still_serves(victim)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a header as HPACK's literal without indexing (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEADERS = b"".join(
    header(name, value)
    for name, value in [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/kgrank.v1.RankingService/Recommend"),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
)


def test_bytes_that_are_no_http_are_no_matter(victim: Attacked) -> None:
    host, _, port = victim.target.partition(":")
    random = Random(3)
    for start in (b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
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

    with running(home, max_streams=50) as server:
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


# --- what NVIDIA Merlin's systems and transformers leave to their callers: each an answer here
# (of a server that was not attacked: requests of chance make rules too, which may block what these tests look for)


def test_an_unknown_user_gets_a_cold_answer(client: Client) -> None:
    answer = client.recommend("nobody-ever-heard-of", k=5)
    assert (len(answer.results), answer.user_state) == (5, common_pb2.USER_STATE_COLD)


def test_k_above_the_catalogue_gives_the_whole_catalogue_once(served: str) -> None:
    with Client(served) as client:
        ids = [each.product_id for each in client.recommend("merlin", k=1000).results]
    assert len(ids) == len(set(ids)) == 90


def test_fewer_candidates_than_k_are_all_that_come(client: Client) -> None:
    assert len(client.rank("user-01", ["product-03", "product-04"], k=50).results) == 2


def test_a_candidate_that_is_not_there_is_named_and_the_others_are_ranked(client: Client) -> None:
    answer = client.rank("user-01", ["product-03", "no-such-thing"])
    assert ([each.product_id for each in answer.results], answer.missing_ids) == (["product-03"], ["no-such-thing"])


def test_candidates_that_are_all_unknown_give_an_empty_answer(client: Client) -> None:
    answer = client.rank("user-01", ["no-such-thing", "nor-this"])
    assert (len(answer.results), list(answer.missing_ids)) == (0, ["no-such-thing", "nor-this"])


def test_null_ids_are_named(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.rank("user-01", ["", "product-03", "\x00"])
    assert {each.field for each in refused.value.violations} == {"product_ids[0]", "product_ids[2]"}
    with pytest.raises(InvalidRequestError):
        client.write_event(event("", "product-03"))
    assert client.recommend("", k=3).results  # nobody in particular is somebody


def test_nothing_left_to_rank_is_an_empty_answer(client: Client) -> None:
    everything = [f"product-{number:02}" for number in range(90)]
    others = client.recommend("user-01", k=5, allowed_product_ids=everything[:5], exclude_product_ids=everything[:5])
    assert not others.results


def test_an_unknown_product_to_be_like_or_to_be_explained_is_not_found(client: Client) -> None:
    for asked in (lambda: client.similar_products("no-such-thing"), lambda: client.explain("user-01", "no-such-thing")):
        with pytest.raises(NotFoundError):
            asked()


def test_a_candidate_given_twice_is_ranked_once(client: Client) -> None:
    assert len(client.rank("user-01", ["product-03"] * 5).results) == 1


def test_a_damaged_history_in_the_request_is_refused_by_its_field(client: Client) -> None:
    nan = common_pb2.Context(
        events=[
            common_pb2.ContextEvent(product_id="product-03", type=common_pb2.INTERACTION_TYPE_RATE, value=float("nan"))
        ]
    )
    with pytest.raises(InvalidRequestError) as refused:
        client.recommend("user-01", context=nan)
    assert {each.field for each in refused.value.violations} == {"context.events[0].value"}
