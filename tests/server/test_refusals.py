import math

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from kgrank.client import Client, event
from kgrank.errors import CallError, InvalidRequestError, NotFoundError, ServerUnavailableError
from kgrank.v1 import common_pb2, event_service_pb2, ranking_service_pb2

LONG = "x" * 257


def violated(error: InvalidRequestError) -> set[str]:
    return {violation.field for violation in error.violations}


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"k": 0}, {"k"}),
        ({"k": -5}, {"k"}),
        ({"k": 1001}, {"k"}),
        ({"user_id": LONG}, {"user_id"}),
        ({"user_id": "a\nb"}, {"user_id"}),
        ({"user_id": "é" * 128 + "x"}, {"user_id"}),
        ({"exclude_product_ids": ["ok", ""]}, {"exclude_product_ids[1]"}),
        ({"exclude_product_ids": ["x"] * 10_001}, {"exclude_product_ids"}),
        ({"allowed_product_ids": ["\x7f"]}, {"allowed_product_ids[0]"}),
        (
            {"context": common_pb2.Context(events=[common_pb2.ContextEvent(product_id="product-01")])},
            {"context.events[0].type"},
        ),
        ({"context": common_pb2.Context(seed_product_ids=["a"] * 1001)}, {"context.seed_product_ids"}),
    ],
)
def test_a_refused_recommend_names_the_field(client: Client, arguments: dict[str, object], fields: set[str]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.recommend(**{"user_id": "user-01", **arguments})  # type: ignore[arg-type]
    assert violated(refused.value) == fields
    assert refused.value.reason == "INVALID_FIELDS"


def test_every_violated_field_is_named_at_once(client: Client) -> None:
    context = common_pb2.Context(
        seed_product_ids=[""],
        events=[
            common_pb2.ContextEvent(
                product_id=LONG,
                type=99,
                at=Timestamp(seconds=-1),
                value=math.nan,  # type: ignore[arg-type]
            )
        ],
    )
    with pytest.raises(InvalidRequestError) as refused:
        client.recommend("a\tb", k=0, exclude_product_ids=[""], context=context)
    assert violated(refused.value) == {
        "user_id",
        "k",
        "exclude_product_ids[0]",
        "context.seed_product_ids[0]",
        "context.events[0].product_id",
        "context.events[0].type",
        "context.events[0].at",
        "context.events[0].value",
    }


def test_ids_at_the_limit_are_accepted(client: Client) -> None:
    assert client.recommend("é" * 128).user_state == common_pb2.USER_STATE_COLD


def test_rank_needs_candidates_within_the_limit(client: Client) -> None:
    for candidates in ([], ["product-01"] * 10_001):
        with pytest.raises(InvalidRequestError) as refused:
            client.rank("user-01", candidates)
        assert violated(refused.value) == {"product_ids"}


def test_a_refused_event_names_its_place_and_nothing_is_written(client: Client) -> None:
    events = [
        event("refused-user", "product-01"),
        event_service_pb2.Event(user_id="", product_id="product-01"),
        event("refused-user", "product-01", at_ms=4_000_000_000_000, value=math.inf),
    ]
    with pytest.raises(InvalidRequestError) as refused:
        client.write_events(events)
    assert violated(refused.value) == {"events[1].user_id", "events[1].type", "events[2].at", "events[2].value"}
    assert client.recommend("refused-user").user_state == common_pb2.USER_STATE_COLD


def test_more_refused_fields_than_metadata_hold_are_still_an_invalid_argument(client: Client) -> None:
    bad = [event_service_pb2.Event(user_id="", product_id="") for _ in range(1000)]
    with pytest.raises(InvalidRequestError) as refused:
        client.write_events(bad)
    *told, last = refused.value.violations
    assert told[0].field == "events[0].user_id"
    assert (last.field, last.description) == ("", f"and {3000 - len(told)} more")


def test_bytes_that_are_no_request_are_an_invalid_argument(served: str) -> None:
    with grpc.insecure_channel(served) as channel:
        call = channel.unary_unary(
            "/kgrank.v1.RankingService/Recommend", request_serializer=bytes, response_deserializer=bytes
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff\xff\xff", timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_the_caller_s_request_id_comes_back_with_a_refusal(served: str) -> None:
    from kgrank.errors import decode
    from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub

    with grpc.insecure_channel(served) as channel, pytest.raises(grpc.RpcError) as refused:
        RankingServiceStub(channel).Recommend(
            ranking_service_pb2.RecommendRequest(k=0), timeout=10, metadata=[("x-request-id", "r-17")]
        )
    assert decode(refused.value).metadata["request_id"] == "r-17"


def test_models_that_are_not_there_or_misnamed(client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.activate_model("models/ghost")
    for name in ("ghost", "models/", "models/../snapshots", ""):
        with pytest.raises(InvalidRequestError) as refused:
            client.activate_model(name)
        assert violated(refused.value) == {"name"}
    with pytest.raises(InvalidRequestError) as refused:
        client.list_models(page_size=-1, page_token="%%%")
    assert violated(refused.value) == {"page_size", "page_token"}


def test_nobody_listening_is_unavailable_after_retries() -> None:
    with Client("127.0.0.1:1", timeout_s=5) as nobody, pytest.raises(ServerUnavailableError):
        nobody.recommend("user-01")


def test_a_passed_deadline_is_told_as_such(client: Client, served: str) -> None:
    # Not a short one, which gRPC rounds up to a millisecond: by then an answer may be there.
    with Client(served, timeout_s=-1) as hasty, pytest.raises(CallError) as late:
        hasty.recommend("user-01")
    assert late.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.recommend("user-01").results
