"""A call is a span in its caller's trace."""

import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from kgrank.client import Client
from kgrank.v1.ranking_service_pb2 import RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from tests.server.running import running

USER = "a-person@example.com"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.lock = threading.Lock()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self.lock:
            self.spans += [s for each in request.resource_spans for scope in each.scope_spans for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_call_is_a_span_of_its_caller_s_trace(
    home: Path, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watch.traces._EXPORT_TIMEOUT_S", 60)
    taken, where = collector
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    metadata = [("traceparent", f"00-{trace}-{parent}-01")]
    unsampled = [("traceparent", f"00-{trace}-{parent}-00")]
    with running(home, watch={"traces_to": where}) as server, grpc.insecure_channel(server.target) as channel:
        stub = RankingServiceStub(channel)
        stub.Recommend(RecommendRequest(user_id=USER, k=3), metadata=metadata, timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.Recommend(RecommendRequest(user_id=USER, k=-3), metadata=metadata, timeout=20)
        stub.Recommend(RecommendRequest(user_id=USER, k=3), metadata=unsampled, timeout=20)
    good, bad = sorted(taken.spans, key=lambda span: span.start_time_unix_nano)  # leaving sends what is left
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (trace, parent)
    assert good.name == "kgrank.v1.RankingService/Recommend"
    assert {each.key for each in good.attributes} == {"rpc.system", "rpc.service", "rpc.method"}
    codes = [each.value.int_value for each in bad.attributes if each.key == "rpc.grpc.status_code"]
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    assert USER not in str(taken.spans)


def test_an_absent_collector_costs_no_call(home: Path) -> None:
    with (
        running(home, watch={"traces_to": "127.0.0.1:1", "traces_share": 1.0}) as server,
        Client(server.target) as client,
    ):
        assert client.recommend("user-01", k=1).results
