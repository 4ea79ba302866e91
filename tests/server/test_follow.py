"""What other servers committed is followed, whatever fails beside it."""

import sqlite3
from contextlib import nullcontext
from pathlib import Path

import pytest
import structlog

from kg.catalogue import Product, upsert
from kg.store import Graph
from kgrank.client import Client
from server.journal_file import JournalFile
from tests.server.running import running
from tests.server.shop import tables
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
