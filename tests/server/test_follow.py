"""What other servers committed is followed, whatever fails or lasts beside it."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import structlog

from kg.catalogue import Product, take_out, upsert
from kg.rules import Action, Rule, Target, upsert_rule
from kg.store import Graph
from kgrank.client import Client
from server.engine import Engine
from server.engine_loading import EngineLoader
from server.journal import Journal
from server.journal_file import JournalFile
from tests.server.running import running
from tests.server.shop import Shop, tables
from tests.waiting import until

pytestmark = pytest.mark.neo4j


def test_a_full_disk_of_the_journal_keeps_nobody_from_what_others_wrote(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: JournalFile, name: str, number: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    graph.load(tables())
    monkeypatch.setattr("server.follow._NOTED_EVERY_S", -1.0)
    monkeypatch.setattr(JournalFile, "note", full)
    with (
        structlog.testing.capture_logs() as logged,
        running(home, lambda: nullcontext(graph)) as server,
        Client(server.target) as client,
    ):
        for name in ("lamp-1", "lamp-2"):
            upsert(graph, [Product(name, "Brass lamp", brand="Acme")])  # as another server does
            until(lambda name=name: not client.rank("user-00", [name]).missing_ids)  # type: ignore[misc]  # of this round
    told = [each["event"] for each in logged]
    assert told.count("commit_not_noted") == 1
    assert "follower_failed" not in told


def test_while_a_model_is_loaded_rules_are_followed_and_the_catalogue_waits(
    home: Path, shop: Shop, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, begun, go_on = EngineLoader.load, threading.Event(), threading.Event()

    def held_up(loader: EngineLoader, model_version: str, journal: Journal, beside: Sequence[Engine]) -> Engine:
        engine = load(loader, model_version, journal, beside)  # which has no change that comes from now on
        begun.set()
        assert go_on.wait(240)
        return engine

    graph.load(tables())
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target) as client:

        def missing(product_id: str) -> bool:
            return bool(client.rank("user-00", [product_id]).missing_ids)

        active = client.recommend("user-00").model_version
        other = next(version for version in shop.versions if version != active)
        monkeypatch.setattr(EngineLoader, "load", held_up)
        loading = threading.Thread(target=client.activate_model, args=(f"models/{other}",))
        loading.start()
        try:
            assert begun.wait(240)
            upsert(graph, [Product("lamp-1", "Brass lamp", brand="Acme")])  # as another server does
            applied = graph.last_commit
            until(lambda: server.server._follower.applied >= applied, 60)
            caught_up_s = server.server._follower._caught_up_s
            upsert_rule(graph, Rule("1", Action.BLOCK, Target.PRODUCT, "product-02"))
            take_out(graph, ["product-03"])
            until(lambda: "product-02" not in {each.product_id for each in client.recommend("user-00", k=90).results})
            assert missing("lamp-1")
            assert client.recommend("user-00").model_version == active
            until(lambda: "product-03" in server.server._catalogue._ids)
            assert server.server._follower._caught_up_s == caught_up_s  # and so is behind
        finally:
            go_on.set()
            loading.join()
        until(lambda: not missing("lamp-1") and missing("product-03"))
        until(lambda: server.server._follower._caught_up_s > caught_up_s)
        assert client.recommend("user-00").model_version == other
