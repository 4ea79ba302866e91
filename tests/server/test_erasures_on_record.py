"""Erasures that their calls could not finish: told while they wait, and on record once the server has done them."""

import time
from pathlib import Path

import pytest

from kg.erasure import erase_user, erasures_since
from kg.store import Graph
from kgrank.errors import ServerUnavailableError
from server.access.audit import Audit, erasures
from tests.kg.small_tables import event, tables
from tests.server.command import CommandLine
from tests.server.erasure import refused_while_set, shop_server
from tests.server.shop import tables as shop_tables
from tests.server.test_erasures_of_others import erasing, there, write
from tests.server.test_watch import values
from tests.waiting import until

pytestmark = pytest.mark.neo4j


def test_an_erasure_is_told_as_waiting_and_then_as_done_though_nobody_asks_again(
    home: Path, graph: Graph, kgrank: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(shop_tables())
    busy = refused_while_set(monkeypatch)
    recorded = {"audit_file": home / "audit.jsonl"}
    with shop_server(home, graph, access=recorded, watch={"metrics_port": 0}) as (server, client):
        port = server.server.metrics_port
        assert port is not None
        assert values(port)["kgrank_erasures_waiting",] == 0
        with pytest.raises(ServerUnavailableError):
            client.erase_user("user-04")
        assert values(port)["kgrank_erasures_waiting",] == 1
        assert kgrank(home, "user", "erased", "user-04").code == 4
        busy.clear()
        until(lambda: values(port)["kgrank_erasures_waiting",] == 0)
    asked = kgrank(home, "user", "erased", "user-04")
    told = [line.partition(": ")[2] for line in asked.out.splitlines()]
    assert told == ["asked to erase, ended in UNAVAILABLE", "erased, by the server, which had it written down"]
    assert asked.code == 0


def test_an_erasure_that_a_start_finishes_waits_until_it_can_be_recorded(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables(products=[{"product_id": "a"}], interactions=[event("e1", "ann", "a")]))
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    with erasing(tmp_path, graph, audit=audit) as (journal, eraser):
        write(journal, "old-life")
        journal.intend_erasure("ann")
        path.unlink()
        path.mkdir()  # as on a disk that takes no more
        eraser.reconcile(graph)
        assert (there(journal), journal.pending_erasures()) == ([], ["ann"])
        [erased] = erasures_since(graph, 0)
        until(lambda: time.time_ns() // 1_000_000 > erased.at_ms)
        write(journal, "new-life")
        path.rmdir()
        eraser.reconcile(graph)
        assert (there(journal), journal.pending_erasures()) == (["new-life"], [])
    audit.close()
    assert [(each.code, each.by_server) for each in erasures(path, "ann")] == [("OK", True)]


def test_an_erasure_that_another_server_has_done_is_on_record_where_it_was_asked_for(
    tmp_path: Path, graph: Graph
) -> None:
    graph.load(tables(products=[{"product_id": "a"}]))
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    with erasing(tmp_path, graph, audit=audit) as (journal, eraser):
        journal.intend_erasure("ann")
        erase_user(graph, "ann", journal.intended_ms("ann"))
        damaged = tmp_path / "snapshots" / "of-then"
        damaged.mkdir(parents=True)
        (damaged / "manifest.json").write_text("{")
        eraser.reconcile(graph)
        assert journal.pending_erasures() == []
    audit.close()
    assert [(each.code, each.by_server) for each in erasures(path, "ann")] == [("UNAVAILABLE", True)]
