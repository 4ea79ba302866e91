"""What the client tries again by itself, and what it must not."""

from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from kg.errors import KgrankError
from kgrank.channel import Credentials, _Bearer
from kgrank.client import Client
from kgrank.errors import CallError
from kgrank.v1.user_service_pb2 import ExportUserResponse
from server.errors import ErasureWaitsError, NoGraphError, NotServingError, UnknownModelError, failure


class Failing(grpc.GenericRpcHandler):
    """Answers every call with the same failure, and counts them by method."""

    def __init__(self, error: KgrankError) -> None:
        self.told = failure(error, method="m", request_id="r")
        self.calls: Counter[str] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what answers a method."""
        method = str(handler_call_details.method).rpartition("/")[2]

        def answer(request: bytes, context: Any) -> bytes:
            self.calls[method] += 1
            context.set_trailing_metadata(self.told.trailing)
            context.abort(self.told.code, self.told.message)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def failing(error: KgrankError) -> Iterator[tuple[Failing, Client]]:
    handler, server = Failing(error), grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            yield handler, client
    finally:
        server.stop(None)


def test_what_changes_nothing_when_it_is_done_twice_is_tried_again_and_what_deletes_is_not() -> None:
    with failing(NotServingError("the server is leaving", "Try again.")) as (handler, client):
        for call in (lambda: client.recommend("u"), lambda: client.delete_rule("r"), lambda: client.erase_user("u")):
            with pytest.raises(CallError, match="is leaving"):
                call()
    assert handler.calls == {"Recommend": 4, "DeleteRule": 1, "EraseUser": 1}


def test_what_waits_for_longer_than_all_attempts_is_told_at_once() -> None:
    with (
        failing(ErasureWaitsError("the graph is away", "It is tried again.")) as (handler, client),
        pytest.raises(CallError, match="the graph is away"),
    ):
        client.recommend("u")
    assert handler.calls == {"Recommend": 1}


def test_a_server_that_has_no_graph_at_all_is_asked_once() -> None:
    with (
        failing(NoGraphError("this server runs without a graph", "Start it without --no-graph.")) as (handler, client),
        pytest.raises(CallError, match="without a graph"),
    ):
        client.get_product("p")
    assert handler.calls == {"GetProduct": 1}


@pytest.mark.parametrize(
    ("problem", "remedy", "message"),
    [
        ("there is no model m", "ListModels names those.", "there is no model m. ListModels names those."),
        ("what is that?", "Say it.", "what is that? Say it."),
        ("two\nlines.", "Read\nboth.", "two lines. Read both."),
        ("nothing helps", "", "nothing helps"),
    ],
)
def test_problem_and_remedy_are_told_as_sentences(problem: str, remedy: str, message: str) -> None:
    assert failure(UnknownModelError(problem, remedy), method="m", request_id="").message == message


def test_a_token_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    bearer = _Bearer(Credentials.of({"KGRANK_TOKEN_FILE": str(file)}))
    assert bearer._current() == "first"
    (tmp_path / "new").write_text("second\n")
    (tmp_path / "new").replace(file)
    assert bearer._current() == "second"
    file.unlink()
    assert bearer._current() == "second"


def test_exported_lines_end_where_lines_of_json_do(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['{"query": "a\u2028b\u0085c"}', '{"query": "d"}']
    part = ExportUserResponse(json_lines="".join(f"{line}\n" for line in lines).encode())
    with Client("127.0.0.1:1") as client:
        monkeypatch.setattr(client._users, "ExportUser", lambda request, timeout: [part])
        assert list(client.export_user("u")) == lines
