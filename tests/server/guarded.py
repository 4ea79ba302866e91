"""A server that wants to know who calls."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from kgrank.channel import Credentials
from kgrank.client import Client
from server.access import tokens
from server.access.roles import Role
from tests.server.running import Running, running
from tests.server.shop import Shop


@dataclass(frozen=True)
class Guarded:
    """A server that wants to know who calls, its tokens file and its audit log."""

    server: Running
    tokens: Path
    audit: Path

    def client(self, *roles: Role, **more: Any) -> Client:
        _, token = tokens.create(self.tokens, "tester", roles, **more)
        self.taken_up(token)
        return Client(self.server.target, credentials=Credentials(token=token))

    def taken_up(self, token: str) -> None:
        """Wait until the server knows a token."""
        with grpc.insecure_channel(self.server.target) as channel:
            deadline = time.monotonic() + 60
            while status(channel, "kgrank.v1.RankingService/Rank", token) == grpc.StatusCode.UNAUTHENTICATED:
                assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def guarded(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = Path(shutil.copytree(shop.home, tmp_path_factory.mktemp("guarded") / "home"))
    access = {"required": True, "tokens_file": home / "tokens.json", "audit_file": home / "audit.jsonl"}
    with running(home, access=access) as server:
        yield Guarded(server, home / "tokens.json", home / "audit.jsonl")


def status(channel: grpc.Channel, method: str, token: str | None, request: bytes = b"") -> grpc.StatusCode:
    """Return what a call without a request ends in."""
    call = channel.stream_stream(f"/{method}", request_serializer=bytes, response_deserializer=bytes)
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        answered = call(iter([request]), metadata=metadata, timeout=20)
        for _ in answered:
            pass
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
