"""What other servers committed is followed, whatever fails or lasts beside it."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import structlog

from kg.catalogue import Product, take_out, upsert
from kg.erasure import erase_user
from kg.extending import CatalogueChange
from kg.rules import Action, Rule, Target, upsert_rule
from kg.store import Graph
from kgrank.client import Client
from kgrank.v1 import common_pb2
from server.catalogue import LiveCatalogue
from server.engine import Engine
from server.engine_loading import EngineLoader
from server.journal import Journal
from server.journal_file import JournalFile
from server.lineup import Lineup
from tests.kg.small_tables import event
from tests.kg.small_tables import tables as small_tables
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


def test_while_products_are_taken_in_all_else_is_followed_and_what_was_taken_out_is_next(
    home: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, begun, go_on = LiveCatalogue.changed, threading.Event(), threading.Event()
    steps: list[set[str]] = []

    def held_up(catalogue: LiveCatalogue, lineup: Lineup, change: CatalogueChange) -> Lineup:
        steps.append(set(change.product_ids))
        begun.set()
        assert go_on.wait(240)  # as where there are many texts to read
        return changed(catalogue, lineup, change)

    monkeypatch.setattr(LiveCatalogue, "changed", held_up)
    monkeypatch.setattr("server.catalogue_following._AT_ONCE", 2)
    graph.load(tables())
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target) as client:
        follower = server.server._follower

        def missing(*product_ids: str) -> list[str]:
            return list(client.rank("user-00", product_ids).missing_ids)

        def state_of(user_id: str) -> int:
            return client.recommend(user_id, k=3).user_state

        try:
            # As another server does.
            upsert(graph, [Product("lamp-0", "Brass lamp", brand="Acme")])
            assert begun.wait(60)
            caught_up_s = follower._caught_up_s
            upsert(graph, [Product(f"lamp-{number}", "Brass lamp", brand="Acme") for number in (1, 2, 3)])
            upsert(graph, [Product("lamp-4", "Brass lamp", brand="Acme")])
            take_out(graph, ["product-03"])
            upsert_rule(graph, Rule("1", Action.BLOCK, Target.PRODUCT, "product-02"))
            told = [event("e1", "settler", "product-05"), event("e2", "settler", "lamp-4")]
            graph.append_events(small_tables(interactions=told).interactions, "other", 2)
            until(lambda: "product-02" not in {each.product_id for each in client.recommend("user-00", k=90).results})
            until(lambda: state_of("settler") == common_pb2.USER_STATE_FEW_EVENTS)
            assert client.user_profile("settler").interaction_count == 1
            erase_user(graph, "user-05")
            until(lambda: state_of("user-05") == common_pb2.USER_STATE_COLD)
            assert missing("lamp-4", "product-03") == ["lamp-4"]
            assert follower._caught_up_s == caught_up_s  # and so is behind
        finally:
            go_on.set()
        until(lambda: missing("lamp-4", "product-03") == ["product-03"])
        until(lambda: client.user_profile("settler").interaction_count == 2)
        until(lambda: follower._caught_up_s > caught_up_s)
    # What one call wrote is taken in together.
    assert steps == [{"lamp-0"}, {"product-03", "lamp-1", "lamp-2", "lamp-3"}, {"lamp-4"}]
