"""What may happen to a journal: damaged pages, a torn end, a clock that goes back; and events that come as a stream."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kgrank.client import Client, event
from kgrank.errors import InvalidRequestError
from kgrank.v1.event_service_pb2 import Event, EventOutcome
from server.contract import written_events
from server.errors import JournalError
from server.journal import Journal
from server.journal_file import WrittenSearch
from tests.server.running import running

PAGE = 4096


def filled(path: Path, count: int) -> Journal:
    journal = Journal(path)
    for start in range(0, count, 500):
        ids = range(start, min(start + 500, count))
        events = [event(f"user-{number % 7}", f"product-{number % 90:02}", event_id=f"e{number:05}") for number in ids]
        journal.append(written_events(events, "events[{}]", 2_000_000_000_000)).result(30)
    return journal


def checkpoint(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def private(path: Path) -> bool:
    """Return whether nobody but its owner can read a journal, or what SQLite has beside it."""
    return all(
        each.stat().st_mode & 0o077 == 0 for each in path.parent.glob(f"{path.name}*") if "damaged" not in each.name
    )


def test_a_journal_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 1)
    assert len(list(tmp_path.glob("journal.db*"))) >= 3
    assert private(path)
    journal.close()


@pytest.mark.parametrize("where", [0.5, 1.0], ids=["in the middle", "the last page"])
def test_of_a_journal_with_a_damaged_page_the_rest_is_recovered(tmp_path: Path, where: float) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 4000)
    journal.note_drained(4000)
    name = journal.name
    journal.close()
    checkpoint(path)
    content = bytearray(path.read_bytes())
    page = min(int(len(content) / PAGE * where), len(content) // PAGE - 1)
    content[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
    path.write_bytes(content)
    with capture_logs() as logged:
        journal = Journal(path)
    told = [each for each in logged if each["event"] == "journal_damaged"]
    read = list(journal.all())
    assert len(told) == 1
    assert told[0]["events_read"] == len(read) > 3000
    assert Path(told[0]["aside"]).read_bytes() == bytes(content)
    assert [each.offset for each in read] == sorted(each.offset for each in read)
    assert all(each.event.event_id == f"e{each.offset - 1:05}" for each in read)
    assert private(path)
    # The graph is given everything once more, and knows each by its id.
    assert journal.name != name
    assert journal.drained == 0
    journal.append(written_events([event("u", "product-01", event_id="new")], "events[{}]", 2_000_000_000_000)).result(
        9
    )
    assert [each.event.event_id for each in journal.read(read[-1].offset, 9)] == ["new"]
    journal.close()


@pytest.mark.parametrize(
    ("text", "mask"), [(b"product-17", 0x80), (b"view", 0x02)], ids=["no text any more", "no type any more"]
)
def test_of_a_journal_with_a_rotten_byte_in_a_text_that_event_alone_is_lost(
    tmp_path: Path, text: bytes, mask: int
) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 2000)
    journal.append_search(WrittenSearch("s1", "user-1", "beans", 5)).result(30)
    journal.close()
    checkpoint(path)
    content = bytearray(path.read_bytes())
    content[content.index(text, len(content) // 2)] ^= mask
    path.write_bytes(content)
    with capture_logs() as logged:
        journal = Journal(path)
    assert [each["events_read"] for each in logged if each["event"] == "journal_damaged"] == [1999]
    read = list(journal.all())
    assert len(read) == 1999
    assert all(each.event.event_id == f"e{each.offset - 1:05}" for each in read)
    assert [each.query for each in journal.searches_of("user-1")] == ["beans"]
    journal.close()
    with capture_logs() as logged:
        Journal(path).close()
    assert logged == []


@pytest.mark.parametrize("column", ["event_id", "user_id", "product_id"])
def test_an_id_that_one_bit_made_bytes_is_text_again(tmp_path: Path, column: str) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 5)
    whole = list(journal.all())
    journal.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE event SET {column} = CAST({column} AS BLOB) WHERE offset = 3")
        connection.commit()
    with capture_logs() as logged:
        journal = Journal(path)
    assert [each["events_read"] for each in logged if each["event"] == "journal_damaged"] == [5]
    assert list(journal.all()) == whole
    journal.close()


OPEN_AND_DIE = """
import os, sys
from pathlib import Path

from server.journal_file import JournalFile

let_through = int(sys.argv[2])

def after_some_renames(event, arguments):
    global let_through
    if event == "os.rename":
        if let_through == 0:
            os._exit(9)
        let_through -= os.path.exists(arguments[0])

sys.addaudithook(after_some_renames)
JournalFile(Path(sys.argv[1]))
"""


def damaged_in_the_middle(path: Path) -> bytes:
    """Make a journal of 4,000 events with one damaged page, and return its bytes."""
    filled(path, 4000).close()
    checkpoint(path)
    content = bytearray(path.read_bytes())
    page = len(content) // PAGE // 2
    content[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
    path.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize(
    "renames", [0, 1, 2], ids=["before it is whole", "before it is in place", "with none in place"]
)
def test_the_mending_of_a_journal_goes_on_where_it_was_killed(tmp_path: Path, renames: int) -> None:
    path = tmp_path / "journal.db"
    content = damaged_in_the_middle(path)
    asked = [sys.executable, "-c", OPEN_AND_DIE, str(path), str(renames)]
    assert subprocess.run(asked, check=False, timeout=240).returncode == 9
    assert path.exists() == (renames < 2)
    with capture_logs() as logged:
        journal = Journal(path)
    read = list(journal.all())
    (told,) = [each for each in logged if each["event"] == "journal_damaged"]
    assert told["events_read"] == len(read) > 3000
    assert all(each.event.event_id == f"e{each.offset - 1:05}" for each in read)
    assert Path(told["aside"]).read_bytes() == content
    journal.close()
    assert {each.name for each in tmp_path.iterdir()} <= {
        *(f"{kept}{suffix}" for kept in (path.name, Path(told["aside"]).name) for suffix in ("", "-wal", "-shm")),
        ".journal.db.lock",
    }


def test_a_journal_that_was_put_in_place_after_the_kill_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    damaged_in_the_middle(path)
    asked = [sys.executable, "-c", OPEN_AND_DIE, str(path), "2"]
    assert subprocess.run(asked, check=False, timeout=240).returncode == 9
    (mended,) = tmp_path.glob(".journal.db.mended-*")
    content = mended.read_bytes()
    filled(tmp_path / "other" / "journal.db", 3).close()
    checkpoint(tmp_path / "other" / "journal.db")
    (tmp_path / "other" / "journal.db").rename(path)
    journal = Journal(path)
    assert len(list(journal.all())) == 3
    journal.close()
    (kept,) = tmp_path.glob("journal.db.damaged-*.mended")
    assert kept.read_bytes() == content


def test_a_torn_end_of_the_write_ahead_log_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 600)
    # As a power failure leaves it: the file and its log, whose last frame is half written.
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for each in (path, path.with_name("journal.db-wal")):
        (crashed / each.name).write_bytes(each.read_bytes())
    journal.close()
    with (crashed / "journal.db-wal").open("ab") as log:
        log.write(b"\x00\x00\x00\x07" + b"half a frame" * 50)
    recovered = Journal(crashed / "journal.db")
    assert len(list(recovered.all())) == 600
    recovered.close()


def test_a_journal_whose_beginning_is_damaged_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    filled(path, 10).close()
    checkpoint(path)
    content = b"\xff" * PAGE + path.read_bytes()[PAGE:]
    path.write_bytes(content)
    with pytest.raises(JournalError, match="can't be opened"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_clock_that_goes_back_loses_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    with running(home) as server, Client(server.target) as client:
        client.write_event(event("traveller", "product-02", "purchase", event_id="today"))
        monkeypatch.setattr(time, "time_ns", lambda: now() - 86_400 * 10**9)
        client.write_event(event("traveller", "product-05", "purchase", event_id="yesterday"))
        assert client.user_profile("traveller").interaction_count == 2
        assert client.recommend("traveller", k=3).results
    with running(home) as server, Client(server.target) as client:
        assert client.user_profile("traveller").interaction_count == 2
        again = client.write_event(event("traveller", "product-02", "purchase", event_id="today"))
        assert again.status == EventOutcome.STATUS_DUPLICATE
    journal = Journal(home / "journal.db")
    assert [(each.offset, each.event.event_id) for each in journal.all()] == [(1, "today"), (2, "yesterday")]
    journal.close()


def test_events_of_a_stream_are_acknowledged_in_order(client: Client) -> None:
    ids = [f"stream-{number}" for number in range(700)]
    outcomes = list(client.ingest_events(event("streamer", "product-03", event_id=each) for each in ids))
    assert [each.event_id for each in outcomes] == ids
    assert {each.status for each in outcomes} == {EventOutcome.STATUS_WRITTEN}
    mixed = [
        event("streamer", "product-03", event_id="stream-5"),
        event("streamer", "no such product", event_id="other"),
        event("streamer", "product-04", event_id="stream-701"),
    ]
    assert [each.status for each in client.ingest_events(mixed)] == [
        EventOutcome.STATUS_DUPLICATE,
        EventOutcome.STATUS_UNKNOWN_PRODUCT,
        EventOutcome.STATUS_WRITTEN,
    ]
    assert client.user_profile("streamer").interaction_count == 701
    assert list(client.ingest_events([])) == []


def test_a_wrong_event_ends_the_stream_after_those_before_it(client: Client) -> None:
    events = [event("streamer-2", "product-03", event_id="good"), Event(user_id="streamer-2"), event("x", "product-01")]
    outcomes = []
    with pytest.raises(InvalidRequestError) as refused:
        outcomes.extend(client.ingest_events(events))
    assert {violation.field for violation in refused.value.violations} == {"event.product_id", "event.type"}
    assert client.user_profile("streamer-2").interaction_count == 1


def test_an_answer_comes_while_the_stream_is_still_open(client: Client) -> None:
    told: list[str] = []

    def one_after_the_other() -> Iterator[Event]:
        for number in range(3):
            assert len(told) == number, "the event before is acknowledged before the next is sent"
            yield event("streamer-3", "product-03", event_id=f"slow-{number}")
            deadline = time.monotonic() + 30
            while len(told) == number and time.monotonic() < deadline:
                time.sleep(0.01)

    for outcome in client.ingest_events(one_after_the_other()):
        told.append(outcome.event_id)
    assert told == ["slow-0", "slow-1", "slow-2"]
