"""Whatever a request holds, the answer is an answer or a refusal, never a failure of the server."""

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgrank.v1 import common_pb2, event_service_pb2, model_service_pb2, ranking_service_pb2
from kgrank.v1.event_service_pb2_grpc import EventServiceStub
from kgrank.v1.model_service_pb2_grpc import ModelServiceStub
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub

EXPECTED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
ids = st.one_of(
    st.sampled_from(
        ["product-01", "product-55", "user-03", "", "x" * 257, "MATCH (n) DETACH DELETE n", "\x00", "a\nb"]
    ),
    st.text(max_size=20).filter(lambda text: text.isprintable()),
)
products = st.one_of(st.sampled_from(["product-01", "product-02", "product-89"]), ids)
numbers = st.one_of(st.integers(-3, 100), st.sampled_from([-(2**31), 2**31 - 1, 1000, 1001]))
floats = st.floats(width=32)
moments = st.builds(
    dict,
    seconds=st.one_of(st.integers(0, 2_000_000_000), st.integers(-(2**63), 2**63 - 1)),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
types = st.integers(-2, 12)
told = st.builds(common_pb2.ContextEvent, product_id=products, type=types, at=st.none() | moments, value=floats)
contexts = st.none() | st.builds(
    common_pb2.Context, seed_product_ids=st.lists(products, max_size=3), events=st.lists(told, max_size=3)
)
events = st.builds(
    event_service_pb2.Event,
    event_id=ids,
    user_id=ids.filter(lambda user: not user.startswith("user-")),  # other tests count on the shop's own users
    product_id=products,
    type=types,
    at=st.none() | moments,
    value=floats,
)
requests = st.one_of(
    st.builds(
        ranking_service_pb2.RecommendRequest,
        user_id=ids,
        k=st.none() | numbers,
        exclude_seen=st.none() | st.booleans(),
        exclude_product_ids=st.lists(products, max_size=4),
        allowed_product_ids=st.lists(products, max_size=4),
        context=contexts,
        include_reasons=st.booleans(),
        include_details=st.booleans(),
    ),
    st.builds(
        ranking_service_pb2.RankRequest,
        user_id=ids,
        product_ids=st.lists(products, max_size=6),
        k=st.none() | numbers,
        context=contexts,
        include_reasons=st.booleans(),
    ),
    st.builds(
        ranking_service_pb2.SimilarProductsRequest,
        product_id=products,
        k=st.none() | numbers,
        exclude_product_ids=st.lists(products, max_size=4),
        include_reasons=st.booleans(),
    ),
    st.builds(
        ranking_service_pb2.ExplainRequest,
        user_id=ids,
        product_id=products,
        context=contexts,
        max_reasons=st.none() | numbers,
    ),
    st.builds(event_service_pb2.WriteEventRequest, event=st.none() | events),
    st.builds(event_service_pb2.WriteEventsRequest, events=st.lists(events, max_size=4)),
    st.builds(model_service_pb2.ListModelsRequest, page_size=numbers, page_token=st.text(max_size=12)),
    st.builds(model_service_pb2.ActivateModelRequest, name=ids.map(lambda name: f"models/{name}")),
)


def outcome(call: "grpc.UnaryUnaryMultiCallable[object, object]", request: object) -> grpc.StatusCode:
    return call.future(request, timeout=30).code()


def stub_method(channel: grpc.Channel, request: object) -> "grpc.UnaryUnaryMultiCallable[object, object]":
    name = type(request).__name__.removesuffix("Request")
    stubs = (RankingServiceStub(channel), EventServiceStub(channel), ModelServiceStub(channel))
    return next(getattr(stub, name) for stub in stubs if hasattr(stub, name))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests)
def test_any_request_is_answered_or_refused(served: str, request: object) -> None:
    with grpc.insecure_channel(served, options=[("grpc.use_local_subchannel_pool", 0)]) as channel:
        assert outcome(stub_method(channel, request), request) in EXPECTED


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests, position=st.integers(0, 200), byte=st.integers(0, 255))
def test_damaged_bytes_are_answered_or_refused(served: str, request: object, position: int, byte: int) -> None:
    serialised = bytearray(request.SerializeToString())  # type: ignore[attr-defined]
    if serialised:
        serialised[position % len(serialised)] = byte
    name = type(request).__name__.removesuffix("Request")
    service = type(request).DESCRIPTOR.file.services_by_name  # type: ignore[attr-defined]
    (descriptor,) = service.values()
    with grpc.insecure_channel(served) as channel:
        call = channel.unary_unary(
            f"/{descriptor.full_name}/{name}", request_serializer=bytes, response_deserializer=bytes
        )
        assert outcome(call, bytes(serialised)) in EXPECTED
