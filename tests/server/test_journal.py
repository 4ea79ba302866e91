import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kg.erasure import Erasure, user_key
from kg.tables import InteractionType
from server.contract import WrittenEvent
from server.errors import JournalError, NotServingError, OverloadedError
from server.journal import Journal
from server.journal_copy import JournalCopy
from server.journal_file import JournalFile, StoredEvent, WrittenSearch
from server.journal_users import erase
from tests.server.test_journal_trim import forget
from tests.waiting import until


def written(number: int) -> WrittenEvent:
    return WrittenEvent(f"e-{number}", f"u-{number % 7}", "p", InteractionType.VIEW, 1000 + number, 0.5)


def test_what_a_reader_keeps_back_is_copied_when_it_is_gone(tmp_path: Path) -> None:
    def opened() -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(tmp_path / "some.db", isolation_level=None))

    with opened() as writer, opened() as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("CREATE TABLE kept (number INTEGER)")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        writer.execute("INSERT INTO kept VALUES (7)")
        tried = threading.Event()
        copy = JournalCopy(opened, tried.set)
        copy.want()
        assert tried.wait(60)  # it has tried once, and the reader sees the table before the row
        before = (tmp_path / "some.db").read_bytes()
        reader.execute("COMMIT")
        until(lambda: (tmp_path / "some.db").read_bytes() != before)
        copy.close()


def test_what_is_stored_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.db")
    stored = journal.append([written(1), written(2)]).result(10)
    journal.append([written(3)]).result(10)
    assert [each.event for each in journal.all(page=2)] == [written(1), written(2), written(3)]
    assert [each.offset for each in stored] == [each.offset for each in journal.read(0, 2)]
    assert journal.read(stored[0].offset, 1)[0].event == written(2)
    journal.close()


def test_many_writers_lose_nothing_and_are_committed_together(tmp_path: Path) -> None:
    commits: list[list[StoredEvent]] = []
    journal = Journal(tmp_path / "journal.db", commits.append)
    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(lambda number: journal.append([written(number)]), range(400)))
    offsets = [future.result(30)[0].offset for future in futures]
    assert len(set(offsets)) == 400
    told = [each.offset for commit in commits for each in commit]
    assert told == sorted(offsets)
    assert len(commits) < 400
    journal.close()


def test_what_is_committed_reaches_the_database_beside_the_writing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    def in_the_database() -> int:
        # "Immutable" looks at the database alone, without its write-ahead log.
        with closing(sqlite3.connect(f"file:{journal.path}?immutable=1", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])

    for count in (1, 2):
        journal.append([written(count)]).result(10)
        until(lambda count=count: in_the_database() == count)
    journal.close()


def test_a_known_id_is_a_duplicate_within_and_across_transactions(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    first = journal.append([written(1), written(1)]).result(10)
    again = journal.append([written(1)]).result(10)
    assert [each.duplicate for each in first + again] == [False, True, True]
    assert {each.offset for each in first + again} == {first[0].offset}
    journal.close()


def test_offsets_are_never_given_twice(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    last = journal.append([written(1), written(2)]).result(10)[-1].offset
    journal.note_drained(last)
    forget(journal, [each.offset for each in journal.all()])
    journal.close()
    reopened = Journal(tmp_path / "journal.db")
    assert reopened.append([written(3)]).result(10)[0].offset > last
    assert reopened.name == journal.name
    reopened.close()


def test_the_drained_offset_only_grows(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.note_drained(5)
    journal.note_drained(3)
    assert journal.drained == 5
    journal.close()


def test_closing_stores_what_is_waiting_and_then_refuses(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    futures = [journal.append([written(number)]) for number in range(50)]
    journal.close()
    assert all(future.result(0) for future in futures)
    with pytest.raises(NotServingError):
        journal.append([written(99)])


def test_too_many_waiting_events_are_refused(tmp_path: Path) -> None:
    entered, opened = threading.Event(), threading.Event()

    def hold(stored: list[StoredEvent]) -> None:
        entered.set()
        assert opened.wait(30)

    journal = Journal(tmp_path / "journal.db", hold, max_waiting=3)
    accepted = [journal.append([written(1)])]
    assert entered.wait(30)
    accepted.append(journal.append([written(2), written(3)]))
    with pytest.raises(OverloadedError):
        journal.append([written(4)])
    opened.set()
    assert [len(future.result(10)) for future in accepted] == [1, 2]
    journal.close()
    reopened = Journal(tmp_path / "journal.db")
    assert len(reopened.read(0, 10)) == 3
    reopened.close()


def test_a_failure_of_the_writing_thread_is_told_and_overcome(tmp_path: Path) -> None:
    failures = [RuntimeError("the listener failed")]

    def fail_once(stored: list[StoredEvent]) -> None:
        if failures:
            raise failures.pop()

    journal = Journal(tmp_path / "journal.db", fail_once)
    with pytest.raises(JournalError, match="not known"):
        journal.append([written(1)]).result(10)
    outcome = None
    for _ in range(10):  # what arrives just while the thread clears its queue is refused as well
        try:
            (outcome,) = journal.append([written(1)]).result(10)
            break
        except JournalError:
            continue
    assert outcome is not None
    assert outcome.duplicate
    journal.close()


def test_a_failing_journal_can_be_closed(tmp_path: Path) -> None:
    def fail(stored: list[StoredEvent]) -> None:
        raise RuntimeError("the listener failed")

    journal = Journal(tmp_path / "journal.db", fail)
    futures = [journal.append([written(number)]) for number in range(50)]
    journal.close()
    assert all(isinstance(future.exception(0), JournalError) for future in futures)


def test_who_writes_waits_for_no_search_through_the_journal_while_a_user_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, statements = Journal(tmp_path / "journal.db"), list[str]()

    @contextmanager
    def traced(file: JournalFile) -> Iterator[sqlite3.Connection]:
        with connection(file) as made:
            if threading.current_thread().name == "journal":
                made.set_trace_callback(statements.append)
            yield made

    connection = JournalFile.connection
    journal.close()
    monkeypatch.setattr(JournalFile, "connection", traced)
    journal = Journal(tmp_path / "journal.db")
    for number in range(6):
        journal.append([written(number), replace(written(100 + number), user_id="gone")]).result(10)
        journal.append_search(WrittenSearch(f"search-{number}", "gone", "tea", number)).result(10)
    journal.drained_to(4, 4)
    statements.clear()
    assert len(journal.erase("gone").result(10)) == 6
    assert (journal.behind, journal.searches_behind) == (4, 0)
    journal.close()
    plans = list[str]()
    with connection(journal) as asked:
        for statement in statements:
            if statement.startswith(("SELECT", "DELETE")):
                plans += [row[3] for row in asked.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert any("INTEGER PRIMARY KEY" in each for each in plans)
    assert not [each for each in plans if re.match("SCAN (event|search)", each)]


def test_what_a_user_writes_while_the_journal_is_searched_goes_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.append([written(1), replace(written(2), user_id="other")]).result(10)
    found = journal.find([written(1).user_id, "nobody"])
    journal.append([replace(written(3), user_id=written(1).user_id)]).result(10)
    assert [each.event.event_id for each in journal.of_users([written(1).user_id], found)[written(1).user_id]] == [
        "e-1",
        "e-3",
    ]
    with journal.connection() as connection:
        connection.execute("DELETE FROM event WHERE event_id = 'e-1'")
        gone = erase(connection, written(1).user_id, 1 << 62, found)
    assert [row[1] for row in gone.events] == ["e-3"]
    assert (gone.left, gone.undrained, gone.searches) == ([], 1, 0)
    assert [each.event.event_id for each in journal.all()] == ["e-2"]
    journal.close()


def test_an_erasure_that_can_t_read_the_journal_says_that_nothing_is_stored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    with journal.connection() as connection:
        connection.execute("ALTER TABLE event RENAME TO hidden")
    assert isinstance(journal.erase("anybody").exception(10), JournalError)
    with journal.connection() as connection:
        connection.execute("ALTER TABLE hidden RENAME TO event")
    assert journal.erase("anybody").result(10) == []
    journal.close()


def test_who_writes_waits_for_no_reader_while_what_was_erased_is_overwritten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.append([written(0)]).result(10)
    finishing = threading.Thread(target=journal.finish_erasure, args=(Erasure(user_key("ann"), 1, 1),))
    with journal.connection() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchone()
        journal.append([written(1)]).result(10)  # what the reader does not see can't leave the log
        finishing.start()
        until(lambda: journal.erasures() != [])
        for number in range(2, 22):
            journal.append([written(number)]).result(10)
        assert finishing.is_alive(), "it waits until nobody reads"
    finishing.join(60)
    assert not finishing.is_alive()
    journal.close()


def test_whoever_waits_for_an_erasure_hears_of_it_where_memory_can_t_be_told(tmp_path: Path) -> None:
    failures = [RuntimeError("the listener failed")]

    def fail_once(user_id: str, left: list[StoredEvent]) -> None:
        if failures:
            raise failures.pop()

    journal = Journal(tmp_path / "journal.db", on_erase=fail_once)
    journal.append([written(1)]).result(10)
    assert isinstance(journal.erase(written(1).user_id).exception(10), JournalError)
    until(lambda: journal.erase(written(1).user_id).exception(10) is None)
    journal.close()


def test_a_file_that_is_no_journal_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("this is not a database, and long enough to be seen as none at all" * 20)
    with pytest.raises(JournalError, match=r"journal\.db can't be opened"):
        Journal(tmp_path / "journal.db")


def test_events_of_any_number_get_offsets_in_their_order_and_duplicates_among_them_theirs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    (known,) = journal.append([written(7)]).result(10)
    for many in (1, 3, 17, 64, 341):
        numbers = [*range(1000 * many, 1000 * many + many), 7, 1000 * many]
        *new, seven, twice = journal.append([written(number) for number in numbers]).result(10)
        offsets = [each.offset for each in new]
        assert offsets == sorted(set(offsets))
        assert not any(each.duplicate for each in new)
        assert (seven.offset, seven.duplicate) == (known.offset, True)
        assert (twice.offset, twice.duplicate) == (offsets[0], True)
        assert [each.event for each in journal.read(offsets[0] - 1, many)] == [written(n) for n in numbers[:many]]
    journal.close()


def test_callers_are_told_once_for_a_transaction_and_after_it(tmp_path: Path) -> None:
    entered, opened = threading.Event(), threading.Event()
    told: list[tuple[int, Callable[[], None]]] = []
    on_disk: list[StoredEvent] = []

    def hold(stored: list[StoredEvent]) -> None:
        on_disk.extend(stored)
        entered.set()
        assert opened.wait(30)

    journal = Journal(tmp_path / "journal.db", hold, hand_over=lambda tell: told.append((len(on_disk), tell)))
    futures = [journal.append([written(0)])]
    assert entered.wait(30)
    futures += [journal.append([written(number)]) for number in range(1, 50)]
    opened.set()
    journal.close()
    assert [stored for stored, _ in told] == [1, 50]
    assert not any(future.done() for future in futures)
    for _, tell in told:
        tell()
    assert [future.result(0)[0].event_id for future in futures] == [f"e-{number}" for number in range(50)]
