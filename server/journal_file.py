"""The file of the event journal: a SQLite database with a write-ahead log and full synchronisation.

What is deleted is overwritten, so that an erased user is not to be found in the bytes either.
"""

import shutil
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kg.erasure import Erasure, user_key
from kg.errors import KgrankError
from kg.tables import InteractionType
from server.contract import WrittenEvent
from server.errors import JournalError, JournalFullError
from server.journal_repair import mend
from server.journal_users import Found, Row, events_of, find

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
CREATE TABLE IF NOT EXISTS search (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    query TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS journal (name TEXT NOT NULL, drained INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS erasure (
    user_key TEXT PRIMARY KEY,
    user_id TEXT,
    commit_number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS intention (user_key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS reached (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_MADE_CLEAN = 1
"""The `user_version` of a journal in whose file what was deleted has always been overwritten."""
COMMIT = "commit"
"""`JournalFile.note`: the last commit of the graph that this server has seen."""
NOTE = "INSERT INTO reached VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = max(number, excluded.number)"
TRIMMED = "trimmed"
"""`JournalFile.note`: the last offset whose event was trimmed."""
_HANDED = "handed "
"""Before a name of the journal: the last offset of this file that was handed to the graph under it."""

_IDS_AT_ONCE = 500
_BUSY_S = 30
_CHECKPOINT_AFTER_S = 0.05
_HOLD_UP_MS = 30
"""For so long, at a time, a checkpoint waits for those who read, and all who write for it; with none it never ends."""
_LEAST_FREE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the journal, at its offset."""

    offset: int
    event: WrittenEvent
    received_ms: int


@dataclass(frozen=True, slots=True)
class WrittenSearch:
    """What a user looked for, and when; it stays here until the graph has it."""

    event_id: str
    user_id: str
    query: str
    at_ms: int


class JournalFile:
    """A journal's events and what it remembers besides. Safe to use from any thread.

    Args:
        path: the SQLite file; made, with its folder, where it is missing.

    Raises:
        JournalError: the file can't be opened, or is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mend(path)
            if not path.exists():  # what people did; SQLite gives its log the same rights
                path.touch(mode=0o600)
            with self.connection() as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] < _MADE_CLEAN:
                    connection.execute("VACUUM")  # an older version left what it deleted in the file
                    connection.execute(f"PRAGMA user_version = {_MADE_CLEAN}")
                connection.executescript(_SCHEMA)
                connection.execute(
                    "INSERT INTO journal SELECT ?, 0 WHERE NOT EXISTS (SELECT * FROM journal)", (uuid.uuid4().hex,)
                )
                self.name: str = connection.execute("SELECT name FROM journal").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"journal {path} can't be opened: {error}",
                "Check the disk and the file's permissions: what is in it is acknowledged.",
            ) from error

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database for the length of a `with` block."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            yield connection
        finally:
            connection.close()

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events with an offset above `after`, in order, at most `limit`."""
        with self.connection() as connection:
            rows = connection.execute("SELECT * FROM event WHERE offset > ? ORDER BY offset LIMIT ?", (after, limit))
            return [stored_event(row) for row in rows]

    def all(self, page: int = 10_000) -> Iterator[StoredEvent]:
        """Yield every event in order."""
        after = 0
        while events := self.read(after, page):
            yield from events
            after = events[-1].offset

    def known(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of some event ids that are in the journal."""
        found: set[str] = set()
        with self.connection() as connection:
            for start in range(0, len(event_ids), _IDS_AT_ONCE):
                some = event_ids[start : start + _IDS_AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = connection.execute(f"SELECT event_id FROM event WHERE event_id IN ({marks})", some)  # noqa: S608  # only question marks
                found.update(row[0] for row in rows)
        return found

    @property
    def drained(self) -> int:
        """The last offset that the graph is known to have."""
        with self.connection() as connection:
            return int(connection.execute("SELECT drained FROM journal").fetchone()[0])

    def undrained(self) -> int:
        """Return how many events the graph is not known to have; reads them all."""
        with self.connection() as connection:
            query = "SELECT count(*) FROM event WHERE offset > (SELECT drained FROM journal)"
            return int(connection.execute(query).fetchone()[0])

    def oldest_undrained_ms(self) -> int | None:
        """Return when the first event came that the graph is not known to have; None without any."""
        with self.connection() as connection:
            query = "SELECT received_ms FROM event WHERE offset > (SELECT drained FROM journal) ORDER BY offset LIMIT 1"
            row = connection.execute(query).fetchone()
            return None if row is None else int(row[0])

    def note_drained(self, offset: int) -> None:
        """Remember that the graph has everything up to an offset."""
        with self.connection() as connection:
            connection.execute("UPDATE journal SET drained = max(drained, ?)", (offset,))

    @property
    def last_offset(self) -> int:
        """The offset of the last event that is, or ever was, in the journal; 0 if none was."""
        with self.connection() as connection:
            rows = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
            return int(rows[0]) if rows else 0

    def set_drained(self, offset: int) -> None:
        """Take the graph to have the events up to an offset, and no others, whatever was noted."""
        with self.connection() as connection:
            connection.execute("UPDATE journal SET drained = ?", (offset,))

    def begin_anew(self) -> None:
        """Take another name: the graph has offsets of this one that this file does not have any more.

        Everything in the file then goes to the graph once more, which knows each event by its id.

        Raises:
            JournalError: it can't be written; the name is the old one.
        """
        name = uuid.uuid4().hex
        self._change(
            (NOTE, (_HANDED + self.name, self.drained)),  # an older version has not noted it
            ("UPDATE journal SET name = ?, drained = 0", (name,)),
        )
        self.name = name

    def note_handed(self, offset: int) -> None:
        """Remember that the graph is about to be given the events up to an offset, whether or not it takes them.

        It survives the process at once, and a power failure once anything else is written, which costs no sync here:
        where it is lost, the journal begins anew, and nothing else is.
        """
        with self.connection() as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(NOTE, (_HANDED + self.name, offset))

    def handed(self) -> dict[str, int]:
        """Return, by each name that the journal ever had, up to which offset the graph was given its events."""
        with self.connection() as connection:
            rows = connection.execute("SELECT name, number FROM reached WHERE name LIKE ?", (f"{_HANDED}%",)).fetchall()
            drained = connection.execute("SELECT drained FROM journal").fetchone()[0]
        handed = {name.removeprefix(_HANDED): int(number) for name, number in rows}
        return {**handed, self.name: max(drained, handed.get(self.name, 0))}

    def note(self, name: str, number: int) -> None:
        """Remember the largest number that was ever noted under a name."""
        with self.connection() as connection:
            connection.execute(NOTE, (name, number))

    def noted(self, name: str) -> int:
        """Return the largest number that was noted under a name; 0 if none was."""
        with self.connection() as connection:
            row = connection.execute("SELECT number FROM reached WHERE name = ?", (name,)).fetchone()
            return 0 if row is None else int(row[0])

    def intend_erasure(self, user_id: str) -> None:
        """Write down that a user is to be erased, before anything is: `pending_erasures` has it until it is done.

        Raises:
            JournalError: it can't be written.
        """
        key, at_ms = user_key(user_id), time.time_ns() // 1_000_000
        self._change(
            (
                "INSERT INTO erasure VALUES (?, ?, 0, ?) "
                "ON CONFLICT (user_key) DO UPDATE SET user_id = excluded.user_id",
                (key, user_id, at_ms),
            ),
            ("INSERT OR REPLACE INTO intention VALUES (?, ?)", (key, at_ms)),
        )

    def intended_ms(self, user_id: str) -> int | None:
        """Return when a pending erasure was asked for, the last time; None where an older version wrote it down."""
        with self.connection() as connection:
            row = connection.execute("SELECT at_ms FROM intention WHERE user_key = ?", (user_key(user_id),)).fetchone()
            return None if row is None else int(row[0])

    def finish_erasure(self, erasure: Erasure) -> None:
        """Note that a user is erased, here or by another server; what is known of a later erasure stays.

        The id goes, unless an erasure was asked for that this one came too early for.

        Raises:
            JournalError: it can't be written.
        """
        self._change(
            (
                "INSERT INTO erasure VALUES (?, NULL, ?, ?) ON CONFLICT (user_key) DO UPDATE SET user_id = CASE WHEN "
                "(SELECT at_ms FROM intention WHERE user_key = excluded.user_key) > excluded.at_ms THEN user_id END, "
                "commit_number = max(commit_number, excluded.commit_number), at_ms = max(at_ms, excluded.at_ms)",
                (erasure.user_key, erasure.commit, erasure.at_ms),
            ),
            ("DELETE FROM intention WHERE user_key = ? AND at_ms <= ?", (erasure.user_key, erasure.at_ms)),
        )
        self._overwrite()

    def pending_erasures(self) -> list[str]:
        """Return the ids of the users whose erasure was begun and not finished."""
        with self.connection() as connection:
            rows = connection.execute("SELECT user_id FROM erasure WHERE user_id IS NOT NULL ORDER BY at_ms")
            return [row[0] for row in rows]

    def erasures(self) -> list[Erasure]:
        """Return the erasures that this server knows of and that are done."""
        with self.connection() as connection:
            rows = connection.execute("SELECT user_key, commit_number, at_ms FROM erasure WHERE commit_number > 0")
            return [Erasure(*row) for row in rows]

    def users(self) -> list[str]:
        """Return the id of every user with an event or a search in the journal."""
        with self.connection() as connection:
            rows = connection.execute("SELECT user_id FROM event UNION SELECT user_id FROM search")
            return [row[0] for row in rows]

    def searches(self, limit: int) -> dict[int, WrittenSearch]:
        """Return the oldest searches, at most `limit`, by offset."""
        with self.connection() as connection:
            rows = connection.execute("SELECT * FROM search ORDER BY offset LIMIT ?", (limit,))
            return {row[0]: WrittenSearch(*row[1:]) for row in rows}

    def searches_waiting(self) -> int:
        """Return how many searches the graph is not known to have."""
        with self.connection() as connection:
            return int(connection.execute("SELECT count(*) FROM search").fetchone()[0])

    def searches_of(self, user_id: str) -> list[WrittenSearch]:
        """Return the searches of a user, in order."""
        with self.connection() as connection:
            rows = connection.execute("SELECT * FROM search WHERE user_id = ? ORDER BY offset", (user_id,))
            return [WrittenSearch(*row[1:]) for row in rows]

    def forget_searches(self, offsets: Sequence[int]) -> int:
        """Forget searches: the graph has them. Return how many of them were there.

        Raises:
            JournalError: it can't be written; nothing is forgotten.
        """
        try:
            with self.connection() as connection:
                connection.execute("BEGIN")
                gone = connection.executemany("DELETE FROM search WHERE offset = ?", ((each,) for each in offsets))
                connection.execute("COMMIT")
                return gone.rowcount
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def find(self, user_ids: Collection[str]) -> Found:
        """Return where events of some users are. Reads the whole journal: not for the event loop's thread."""
        with self.connection() as connection:
            return find(connection, user_ids)

    def of_user(self, user_id: str) -> list[StoredEvent]:
        """Return the events of a user, in order; reads the whole journal."""
        return self.of_users([user_id], self.find([user_id]))[user_id]

    def of_users(self, user_ids: Collection[str], found: Found) -> dict[str, list[StoredEvent]]:
        """Return the events of some users, in order, by user.

        Args:
            user_ids: the users.
            found: where events of these users were.
        """
        with self.connection() as connection:
            return {each: [stored_event(row) for row in events_of(connection, each, found)] for each in user_ids}

    def _change(self, *changes: tuple[str, tuple[object, ...]]) -> None:
        """Run statements, each with its values, in one transaction."""
        try:
            with self.connection() as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement, values in changes:
                    connection.execute(statement, values)
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def _overwrite(self) -> None:
        """Take what was deleted out of the write-ahead log, where its former pages are."""
        deadline = time.monotonic() + _BUSY_S
        with self.connection() as connection:
            connection.execute(f"PRAGMA busy_timeout = {_HOLD_UP_MS}")
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    _log.warning("journal_not_checkpointed", remedy="It is done at the next erasure or start.")
                    return
                time.sleep(_CHECKPOINT_AFTER_S)

    def failure(self, error: sqlite3.Error) -> KgrankError:
        """Return what a caller is told of a write that failed."""
        # A full disk shows as SQLITE_FULL, or as an I/O error where the shared-memory file can't grow.
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        with suppress(OSError):
            full = full or shutil.disk_usage(self.path.parent).free < _LEAST_FREE_BYTES
        if full:
            return JournalFullError(
                "the event journal's disk is full; the event is not stored", "Free space on that disk."
            )
        return not_written()


def not_written() -> JournalError:
    """Return the error for what is not stored."""
    return JournalError("the event journal can't be written; nothing is stored", "The server's log says why.")


def stored_event(row: Row) -> StoredEvent:
    """Return a row of the table of events."""
    offset, event_id, user_id, product_id, kind, at_ms, value, received_ms = row
    return StoredEvent(
        offset, WrittenEvent(event_id, user_id, product_id, InteractionType(kind), at_ms, value), received_ms
    )
