"""Connections that are asked to begin anew: clients find other servers, and no call hears of it."""

from pathlib import Path

import grpc
import psutil

from kgrank.v1 import ranking_service_pb2, ranking_service_pb2_grpc
from tests.server.running import running
from tests.waiting import until


def test_a_connection_is_made_anew_and_no_call_is_lost(home: Path) -> None:
    ports: set[int] = set()
    with (
        running(home, connection_age_s=0.4) as server,
        grpc.insecure_channel(server.target, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        stub = ranking_service_pb2_grpc.RankingServiceStub(channel)
        port = int(server.target.rpartition(":")[2])

        def three_connections() -> bool:
            for _ in range(20):  # a failed one raises
                assert stub.Recommend(ranking_service_pb2.RecommendRequest(user_id="user-01", k=3), timeout=10).results
            ports.update(each.laddr.port for each in psutil.Process().net_connections() if each.raddr[1:] == (port,))
            return len(ports) >= 3

        until(three_connections)
