"""The server as a process: what a kill, a signal, a taken port and a full disk do to it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import OverloadedError
from kgrank.v1 import common_pb2
from kgrank.v1.event_service_pb2 import EventOutcome
from kgrank.v1.ranking_service_pb2 import BatchRecommendRequest, RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.config import ServeSettings
from server.drain import rows
from server.journal import Journal
from tests.server.running import running
from tests.server.shop import tables
from tests.server.test_places import stopped
from tests.small_disk import small_disk
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(
    home: Path, *arguments: str, before: Sequence[str] = (), more_code: Sequence[str] = ()
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run `kgrank serve` in a process of its own, by what comes `before`; yield it and its address once it is ready."""
    command = [*before, sys.executable, "-m", "server.main", "serve", "--port", "0", "--json", *arguments]
    environment = os.environ | {
        "KGRANK_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *more_code]),
        "KGRANK_SERVE__DRAIN_S": "60",
    }
    with (
        (home / "serve.log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (home / "serve.log").read_text()
            yield process, json.loads(line)["target"]
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.neo4j
def test_an_acknowledged_event_survives_kill_9_and_reaches_the_graph_once(
    home: Path, graph: Graph, graph_folder: Path
) -> None:
    graph.load(tables())
    (home / "graph").symlink_to(graph_folder)
    survivor = event("survivor", "product-02", "purchase", event_id="survivor-1")
    with serving(home, "--no-graph") as (process, target), Client(target) as client:
        assert client.write_event(survivor).status == EventOutcome.STATUS_WRITTEN
        process.kill()
        process.wait()
    with serving(home) as (process, target), Client(target, timeout_s=30) as client:
        answer = client.recommend("survivor", k=90)
        again = client.write_event(survivor)
        client.write_event(event("survivor", "product-05", "view", event_id="survivor-2"))
        process.send_signal(signal.SIGTERM)  # drains: what is journalled is in the graph when the process has left
        assert process.wait(150) == 0
    assert answer.user_state == common_pb2.USER_STATE_FEW_EVENTS
    assert "product-02" not in {result.product_id for result in answer.results}
    assert again.status == EventOutcome.STATUS_DUPLICATE
    stored = graph.read("MATCH (:User {id: 'survivor'})-[e]->(p:Product) RETURN e.event_id, p.id ORDER BY e.event_id")
    assert stored == [["survivor-1", "product-02"], ["survivor-2", "product-05"]]


@pytest.mark.neo4j
def test_a_batch_that_the_graph_has_taken_is_not_taken_twice(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    journal = Journal(tmp_path / "journal.db")
    from server.contract import written_events

    events = [event("drained", f"product-{number:02}", event_id=f"d-{number}") for number in range(3)]
    journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(10)
    stored = journal.read(0, 10)
    # The graph commits, and the server is killed before it can note so.
    for _ in range(2):
        graph.append_events(rows(stored), journal.name, stored[-1].offset)
    journal.close()
    assert graph.journal_offset(journal.name) == stored[-1].offset
    assert graph.read("MATCH (:User {id: 'drained'})-[e]->() RETURN count(e)") == [[3]]


@pytest.mark.slow
def test_sigterm_leaves_in_order_and_a_taken_port_is_one_sentence(home: Path) -> None:
    with serving(home, "--no-graph") as (process, target), Client(target) as client:
        assert client.recommend("user-01").results
        second = subprocess.run(
            [sys.executable, "-m", "server.main", "serve", "--port", target.rpartition(":")[2], "--no-graph"],
            env=os.environ | {"KGRANK_HOME": str(home / "other"), "PYTHONPATH": str(ROOT)},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 0
    assert second.returncode == 1
    assert f"can't listen on {target}" in second.stderr
    assert "Traceback" not in second.stderr
    assert len(second.stderr.strip().splitlines()) == 2


FEW_FILES = ("bash", "-c", 'ulimit -Sn 256 && ulimit -Hn 4096 && exec "$@"', "bash")


@pytest.mark.slow
def test_a_server_alone_leaves_in_order_at_sighup_opens_all_files_that_it_may_and_logs_json_to_the_end(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where the tests were started with nohup
        "atexit.register(os.write, 2, b'leaked\\n')\n"  # as triton does where the process has compiled a model
    )
    one_more, asked = threading.Event(), RecommendRequest(user_id="user-01", k=3)

    def requests() -> Iterator[BatchRecommendRequest]:
        yield BatchRecommendRequest(sequence=1, request=asked)
        one_more.wait(60)
        yield BatchRecommendRequest(sequence=2, request=asked)

    with (
        serving(home, "--no-graph", before=FEW_FILES, more_code=[str(tmp_path)]) as (process, target),
        grpc.insecure_channel(target) as channel,
    ):
        assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (4096, 4096)
        answers = RankingServiceStub(channel).BatchRecommend(requests(), timeout=120)
        assert next(answers).sequence == 1
        process.send_signal(signal.SIGHUP)
        until(lambda: refuses(target))
        one_more.set()
        assert [(each.sequence, len(each.response.results)) for each in answers] == [(2, 3)]
        assert process.wait(150) == 0
    log = (home / "serve.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log][-1] == "stopped"  # every line is JSON, to the last


def refuses(target: str) -> bool:
    """Return whether a server takes no new calls."""
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAVAILABLE)
    return False


LEFT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""What a call ends in that a leaving server did not take; the second where it arrived in that very instant."""


def test_a_server_that_leaves_finishes_the_running_call_and_takes_no_new_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = [("grpc.enable_retries", 0)]
    with (
        running(home, drain_s=60) as server,
        grpc.insecure_channel(server.target, options=once) as channel,
        grpc.insecure_channel(server.target, options=[*once, ("grpc.use_local_subchannel_pool", 1)]) as later,
    ):

        def refused() -> bool:
            try:
                health_pb2_grpc.HealthStub(later).Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code == grpc.StatusCode.UNAVAILABLE
            return False

        with stopped(server, monkeypatch) as answered:
            inside = RankingServiceStub(channel).Recommend.future(RecommendRequest(user_id="user-01", k=3), timeout=60)
            until(lambda: server.server._serving.calls.taken == 1)
            leaving = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)  # as after SIGTERM
            until(refused)
            for way_in in (channel, later):
                with pytest.raises(grpc.RpcError) as new:
                    RankingServiceStub(way_in).Recommend(RecommendRequest(user_id="user-02", k=3), timeout=10)
                assert new.value.code() in LEFT
            assert not inside.done()
            assert not leaving.done()
        assert len(inside.result().results) == 3
        leaving.result(30)
    assert answered == ["user-01"]


def test_a_full_disk_refuses_events_and_ranking_goes_on(home: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        for name in ("snapshots", "artifacts", "cache"):
            (disk / name).symlink_to(home / name)
        with running(disk) as server, Client(server.target) as client:
            acknowledged = 0

            def write_on() -> None:
                nonlocal acknowledged
                while True:
                    ids = [f"{acknowledged + number}-" + "x" * 200 for number in range(50)]
                    client.write_events([event("hoarder", "product-01", event_id=each) for each in ids])
                    acknowledged += len(ids)

            with pytest.raises(OverloadedError) as refused:
                write_on()
            assert refused.value.reason == "JOURNAL_FULL"
            assert refused.value.retry_after_s is not None
            assert client.recommend("user-01").results
        journal = Journal(disk / "journal.db")
        assert sum(1 for _ in journal.all()) == acknowledged > 0
        journal.close()


def test_without_a_free_file_the_start_is_one_clear_error(tmp_path: Path) -> None:
    from server.errors import JournalError

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match="can't be opened"):
        Journal(tmp_path / "file" / "journal.db")


def test_a_port_of_somebody_else_is_refused(home: Path) -> None:
    from server.listening import PortTakenError

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTakenError, match="can't listen on"), running(home, port=other.getsockname()[1]):
            pass


def test_a_host_that_is_none_of_this_machine_s_is_told_as_one(home: Path) -> None:
    from server.listening import PortTakenError

    with pytest.raises(PortTakenError, match="can't listen on") as refused, running(home, host="no-such-host.invalid"):
        pass
    assert refused.value.remedy.startswith("Check serve.host")


def test_an_address_of_the_newer_kind_stands_in_brackets() -> None:
    from server.listening import address_of

    assert ServeSettings(host="[::1]").host == "::1"
    assert (address_of("::1", 5), address_of("127.0.0.1", 5)) == ("[::1]:5", "127.0.0.1:5")


def test_beside_others_a_server_listens_once_it_serves(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.listening._ANSWERS_WITHIN_S", 60)

    def answered(target: str) -> None:
        for _ in range(20):  # new connections, which the kernel shares out
            with Client(target) as client:
                assert client.recommend("user-01", k=3).results

    empty, copy = tmp_path / "empty", Path(shutil.copytree(home, tmp_path / "copy"))
    empty.mkdir()
    with ExitStack() as second:
        with running(home, reuse_port=True) as first:
            port = int(first.target.rpartition(":")[2])
            with running(empty, port=port, reuse_port=True):
                answered(first.target)
            second.enter_context(running(copy, port=port, reuse_port=True))
            answered(first.target)
        answered(first.target)  # by the second alone


def test_without_a_model_a_server_listens_where_nobody_else_does(tmp_path: Path) -> None:
    with running(tmp_path, reuse_port=True) as alone, Client(alone.target) as client:
        assert not client.list_models().models
