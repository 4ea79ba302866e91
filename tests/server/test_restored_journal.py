"""A journal that a restore puts back, beside what is left of the one that was there."""

import shutil
from pathlib import Path

import pytest

from kg.store import Graph
from kgrank.client import event
from server.backup import backup, restore
from server.contract import written_events
from server.journal import Journal
from server.journal_file import JournalFile
from tests.server.shop import tables

pytestmark = pytest.mark.neo4j


@pytest.mark.parametrize("left", ["journal.db-wal", ".restored-journal.db-wal"])
def test_the_log_of_a_newer_journal_is_not_read_into_the_one_that_is_put_back(
    tmp_path: Path, graph: Graph, left: str
) -> None:
    graph.load(tables())
    home, folder, log = tmp_path / "home", tmp_path / "backup", tmp_path / "log"
    append(home, [f"kept-{number}" for number in range(50)]).close()
    backup(home, graph, folder)
    journal = append(home, [f"newer-{number}" for number in range(500)])
    shutil.copy(home / "journal.db-wal", log)  # as a kill leaves it
    journal.close()
    if left == "journal.db-wal":
        (home / "journal.db").unlink()
    else:
        shutil.copy(folder / "home" / "journal.db", home / "journal.db")
    shutil.copy(log, home / left)
    restore(home, graph, folder, replace=True)
    events = [each.event.event_id for each in JournalFile(home / "journal.db").all()]
    assert events == [f"kept-{number}" for number in range(50)]


def append(home: Path, event_ids: list[str]) -> Journal:
    """Return the journal of a home, with some events more."""
    journal = Journal(home / "journal.db")
    events = [event("keeper", "product-02", event_id=each) for each in event_ids]
    journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(30)
    return journal
