import shutil
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kgrank.client import Client
from kgrank.errors import ServerUnavailableError
from tests.server.running import running
from tests.server.shop import Shop

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["", *(f"kgrank.v1.{name}Service" for name in ("Ranking", "Event", "Model", "User", "Catalog", "Rule"))]


def health(channel: grpc.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def test_a_ready_server_is_serving_all_its_services(served: str) -> None:
    with grpc.insecure_channel(served) as channel:
        assert [health(channel, service) for service in SERVICES] == [SERVING] * len(SERVICES)


def test_without_a_model_calls_are_unavailable_until_one_is_activated(shop: Shop, tmp_path: Path) -> None:
    for name in ("snapshots", "cache"):
        shutil.copytree(shop.home / name, tmp_path / name)
    with running(tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=300)
        assert next(watched).status == NOT_SERVING
        with Client(server.target) as client:
            with pytest.raises(ServerUnavailableError) as refused:
                client.recommend("user-01")
            assert refused.value.reason == "NOT_SERVING"
            assert refused.value.retry_after_s == 1
            assert health(channel, "kgrank.v1.ModelService") == SERVING
            shutil.copytree(shop.home / "artifacts", tmp_path / "artifacts")
            client.activate_model(f"models/{shop.versions[0]}")
            assert next(watched).status == SERVING
            assert client.recommend("user-01").results
        watched.cancel()


def test_reflection_lists_the_services_unless_it_is_off(served: str, home: Path) -> None:
    def services(target: str) -> set[str]:
        with grpc.insecure_channel(target) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            (answer,) = stub.ServerReflectionInfo(iter(asked), timeout=10)
            return {service.name for service in answer.list_services_response.service}

    assert set(SERVICES[1:]) <= services(served)
    with running(home, reflection=False) as server, pytest.raises(grpc.RpcError) as off:
        services(server.target)
    assert off.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
