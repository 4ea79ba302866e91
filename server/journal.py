"""The event journal: what is acknowledged is on disk first.

SQLite with a write-ahead log and full synchronisation. One thread commits whatever is waiting in one transaction
(group commit), so that many callers share the price of one sync to disk; each is told after the commit. An event's id
is unique: one that is stored already is acknowledged and not stored again. Offsets only grow; `name` tells this journal
from any other, so that the graph can keep how far it has taken each.
"""

import queue
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kg.errors import KgrankError
from kg.tables import InteractionType
from server.contract import WrittenEvent
from server.errors import JournalError, JournalFullError, NotServingError, OverloadedError

_log = structlog.get_logger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    product_id TEXT NOT NULL,
    type TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    value REAL,
    received_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS journal (name TEXT NOT NULL, drained INTEGER NOT NULL);
"""
_INSERT = """
INSERT INTO event (event_id, user_id, product_id, type, at_ms, value, received_ms)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING RETURNING offset
"""
KEPT_MS = 7 * 24 * 3_600_000

_MOST_TOGETHER = 500
_IDS_AT_ONCE = 500
_MOST_WAITING = 100 * _MOST_TOGETHER
_BUSY_S = 30
_RECONNECT_S = 0.5
_LEAST_FREE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the journal, at its offset."""

    offset: int
    event: WrittenEvent
    received_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an event: its offset, and whether an event with its id was there before."""

    offset: int
    event_id: str
    duplicate: bool


@dataclass(frozen=True)
class _Waiting:
    events: Sequence[WrittenEvent]
    done: Future[list[Stored]]

    def fail(self, error: KgrankError) -> None:
        """Tell the caller of an error, unless it has been told something already."""
        if not self.done.done():
            self.done.set_exception(error)


class Journal:
    """A durable, ordered log of events. Appending is safe from any thread.

    Args:
        path: the SQLite file; made, with its folder, where it is missing.
        on_commit: called by the writing thread with what a transaction stored, in order, before its callers are told.
        max_waiting: events waiting for the disk before new ones are refused.
        kept_ms: how long events stay after the graph has them: their ids are known as duplicates, and a graph that is
            restored from a backup is given them again.

    Raises:
        JournalError: the file can't be opened, or is not a journal.
    """

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[list[StoredEvent]], None] = lambda stored: None,
        *,
        max_waiting: int = _MOST_WAITING,
        kept_ms: int = KEPT_MS,
    ) -> None:
        self.kept_ms = kept_ms
        self._path = path
        self._on_commit = on_commit
        self._max_waiting = max_waiting
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as connection:
                connection.executescript(_SCHEMA)
                connection.execute(
                    "INSERT INTO journal SELECT ?, 0 WHERE NOT EXISTS (SELECT * FROM journal)", (uuid.uuid4().hex,)
                )
                self.name: str = connection.execute("SELECT name FROM journal").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"journal {path} can't be opened: {error}",
                "Check the disk and the file's permissions; a damaged file moved away makes room for a new journal.",
            ) from error
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._appending = threading.Lock()
        self._waiting_events = 0
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, events: Sequence[WrittenEvent]) -> "Future[list[Stored]]":
        """Store events, each with an id; the future is done once they are on disk.

        Where it ends in `JournalFullError` (the disk is full) or `JournalError`, none of them is stored, unless the
        error says that this is not known.

        Raises:
            NotServingError: the journal is closed.
            OverloadedError: too many events are waiting; none of these is stored.
        """
        waiting = _Waiting(events, Future())
        waiting.done.set_running_or_notify_cancel()  # what is on its way to the disk is not taken back
        with self._appending:
            if self._leaving.is_set():
                raise NotServingError("the server is leaving", "Try again; another one may be there.")
            if self._waiting_events >= self._max_waiting:
                raise OverloadedError(f"{self._waiting_events} events are waiting", "Try again a little later.")
            self._waiting_events += len(events)
            self._queue.put(waiting)
        return waiting.done

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events with an offset above `after`, in order, at most `limit`."""
        with self._connection() as connection:
            rows = connection.execute("SELECT * FROM event WHERE offset > ? ORDER BY offset LIMIT ?", (after, limit))
            return [_stored_event(row) for row in rows]

    def all(self, page: int = 10_000) -> Iterator[StoredEvent]:
        """Yield every event in order."""
        after = 0
        while events := self.read(after, page):
            yield from events
            after = events[-1].offset

    def known(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of some event ids that are in the journal."""
        found: set[str] = set()
        with self._connection() as connection:
            for start in range(0, len(event_ids), _IDS_AT_ONCE):
                some = event_ids[start : start + _IDS_AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = connection.execute(f"SELECT event_id FROM event WHERE event_id IN ({marks})", some)  # noqa: S608  # only question marks
                found.update(row[0] for row in rows)
        return found

    @property
    def drained(self) -> int:
        """The last offset that the graph is known to have."""
        with self._connection() as connection:
            return int(connection.execute("SELECT drained FROM journal").fetchone()[0])

    def undrained(self) -> tuple[int, int | None]:
        """Return how many events the graph is not known to have, and when the oldest of them came (ms)."""
        with self._connection() as connection:
            found = connection.execute(
                "SELECT count(*), min(received_ms) FROM event WHERE offset > (SELECT drained FROM journal)"
            ).fetchone()
        return int(found[0]), found[1]

    def note_drained(self, offset: int) -> None:
        """Remember that the graph has everything up to an offset."""
        with self._connection() as connection:
            connection.execute("UPDATE journal SET drained = max(drained, ?)", (offset,))

    def trim(self, offsets: Sequence[int]) -> None:
        """Forget events; the ids of forgotten events are no longer known as duplicates.

        Raises:
            JournalError: it can't be written; nothing is forgotten.
        """
        try:
            with self._connection() as connection:
                connection.execute("BEGIN")
                connection.executemany("DELETE FROM event WHERE offset = ?", ((offset,) for offset in offsets))
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self._path} can't be trimmed: {error}", "Check the disk and the file's permissions."
            ) from error

    def close(self) -> None:
        """Store what is waiting, then stop."""
        with self._appending:
            self._leaving.set()
            self._queue.put(None)
        self._thread.join()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()

    def _run(self) -> None:
        """Write until the journal is closed; after a failure, with a connection of its own again."""
        while True:
            try:
                with self._connection() as connection:
                    self._write_all(connection)
            except Exception:
                # Whoever waits for a thread that has died would wait for ever.
                _log.exception("journal_thread_failed", next_attempt_s=_RECONNECT_S)
                leaving = self._leaving.is_set()  # from then on nothing is appended
                if self._fail_waiting() or leaving:
                    return
                self._leaving.wait(_RECONNECT_S)
            else:
                return

    def _fail_waiting(self) -> bool:
        """Tell everyone in the queue that nothing is stored; return whether the journal's end was in it."""
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return False
            if waiting is None:
                return True
            waiting.fail(_not_written())
            self._took([waiting])

    def _took(self, together: list[_Waiting]) -> None:
        with self._appending:
            self._waiting_events -= sum(len(each.events) for each in together)

    def _write_all(self, connection: sqlite3.Connection) -> None:
        waiting: _Waiting | None = self._queue.get()
        while waiting is not None:
            together = [waiting]
            count = len(waiting.events)
            while count < _MOST_TOGETHER:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                together.append(following)
                count += len(following.events)
            try:
                self._write(connection, together)
            finally:
                for each in together:
                    each.fail(
                        JournalError(
                            "the event journal failed; whether the event is stored is not known",
                            "Write it again under the same event_id.",
                        )
                    )
                self._took(together)
            waiting = self._queue.get()

    def _write(self, connection: sqlite3.Connection, together: list[_Waiting]) -> None:
        """Store the events of several callers in one transaction, and tell each."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_ms = time.time_ns() // 1_000_000
            stored = [[_insert(connection, event, now_ms) for event in waiting.events] for waiting in together]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            failure = self._failure(error)
            _log.error("journal_write_failed", error=str(error), events=sum(len(each.events) for each in together))
            with suppress(sqlite3.Error):
                connection.rollback()
            for waiting in together:
                waiting.fail(failure)
            if connection.in_transaction:
                raise  # this connection can't begin another one
        else:
            new = [
                StoredEvent(outcome.offset, event, now_ms)
                for waiting, outcomes in zip(together, stored, strict=True)
                for event, outcome in zip(waiting.events, outcomes, strict=True)
                if not outcome.duplicate
            ]
            if new:
                self._on_commit(new)
            for waiting, outcomes in zip(together, stored, strict=True):
                waiting.done.set_result(outcomes)

    def _failure(self, error: sqlite3.Error) -> KgrankError:
        # A full disk shows as SQLITE_FULL, or as an I/O error where the shared-memory file can't grow.
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        with suppress(OSError):
            full = full or shutil.disk_usage(self._path.parent).free < _LEAST_FREE_BYTES
        if full:
            return JournalFullError(
                "the event journal's disk is full; the event is not stored", "Free space on that disk."
            )
        return _not_written()


def _not_written() -> JournalError:
    return JournalError("the event journal can't be written; nothing is stored", "The server's log says why.")


def _insert(connection: sqlite3.Connection, event: WrittenEvent, now_ms: int) -> Stored:
    row = (event.event_id, event.user_id, event.product_id, str(event.type), event.at_ms, event.value, now_ms)
    inserted = connection.execute(_INSERT, row).fetchall()
    if inserted:
        return Stored(inserted[0][0], event.event_id, duplicate=False)
    known = connection.execute("SELECT offset FROM event WHERE event_id = ?", (event.event_id,)).fetchone()
    return Stored(known[0], event.event_id, duplicate=True)


def _stored_event(row: tuple[int, str, str, str, str, int, float | None, int]) -> StoredEvent:
    offset, event_id, user_id, product_id, kind, at_ms, value, received_ms = row
    return StoredEvent(
        offset, WrittenEvent(event_id, user_id, product_id, InteractionType(kind), at_ms, value), received_ms
    )
