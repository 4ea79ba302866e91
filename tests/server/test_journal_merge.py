"""Journals of processes that are no more, taken into the first one's."""

from pathlib import Path

import pytest

from kg.erasure import Erasure, user_key
from kgrank.client import event
from server.contract import written_events
from server.errors import JournalError
from server.journal import Journal
from server.journal_file import JournalFile, WrittenSearch
from server.journal_merge import merge


def test_the_journal_of_a_process_that_is_no_more_goes_to_the_first(tmp_path: Path) -> None:
    for number in range(3):
        name = "journal.db" if number == 0 else f"journal-{number}.db"
        journal = Journal(tmp_path / name)
        events = [event("u", "p", event_id=each) for each in ("same", f"of-{number}")]
        journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(10)
        journal.close()
    merge(tmp_path, 1, 2)  # not the first: leaves all alone
    merge(tmp_path, 0, 2)
    assert sorted(path.name for path in tmp_path.glob("journal*.db")) == ["journal-1.db", "journal.db"]
    journal = Journal(tmp_path / "journal.db")
    assert [each.event.event_id for each in journal.all()] == ["same", "of-0", "of-2"]
    journal.close()


def test_the_journals_of_a_server_that_runs_are_not_merged(tmp_path: Path) -> None:
    Journal(tmp_path / "journal-1.db").close()
    running = Journal(tmp_path / "journal.db")
    with pytest.raises(JournalError, match="belongs to another server"):
        merge(tmp_path, 0, 1)
    assert (tmp_path / "journal-1.db").exists()
    running.close()


def test_a_merged_journal_goes_while_nobody_else_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("journal.db", "journal-1.db"):
        Journal(tmp_path / name).close()
    refused, unlink = [], Path.unlink

    def try_to_open(path: Path, missing_ok: bool = False) -> None:
        if path.name == "journal-1.db":
            with pytest.raises(JournalError, match="belongs to another server"):
                Journal(path)
            refused.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", try_to_open)
    merge(tmp_path, 0, 1)
    assert refused == ["journal-1.db"]
    assert [path.name for path in tmp_path.glob("*journal-1*")] == []


def test_a_journal_that_can_t_be_merged_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal-1.db")
    journal.append(written_events([event("u", "p")], "events[{}]", 2_000_000_000_000)).result(10)
    journal.close()
    target = JournalFile(tmp_path / "journal.db")
    with target.connection() as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(FAIL, 'full'); END")
    with pytest.raises(JournalError, match=r"can't be taken into journal\.db: full"):
        merge(tmp_path, 0, 1)
    assert (tmp_path / "journal-1.db").exists()


@pytest.mark.parametrize("told", ["journal.db", "journal-2.db"])
def test_an_erasure_that_one_of_two_merged_journals_knows_holds_for_both(tmp_path: Path, told: str) -> None:
    for name in ("journal.db", "journal-2.db"):
        journal = Journal(tmp_path / name)
        events = [event(user, "p", event_id=f"{user}-{name}") for user in ("gone", "here")]
        journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(10)
        journal.append_search(WrittenSearch(f"search-{name}", "gone", "beans", 5)).result(10)
        if name == told:
            received_ms = max(each.received_ms for each in journal.all())
            journal.finish_erasure(Erasure(user_key("gone"), 3, received_ms + 60_000))
        journal.close()
    merge(tmp_path, 0, 2)
    journal = Journal(tmp_path / "journal.db")
    assert journal.users() == ["here"]
    assert len(list(journal.all())) == 2
    journal.close()
