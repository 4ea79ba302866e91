"""The journal of a server process that is no more, taken into one that goes on."""

import sqlite3
from pathlib import Path

import structlog

from kg.erasure import user_key
from server.errors import JournalError
from server.journal import locked
from server.journal_file import JournalFile

_log = structlog.get_logger(__name__)

_MERGE = (
    "INSERT OR IGNORE INTO event (event_id, user_id, product_id, type, at_ms, value, received_ms) "
    "SELECT event_id, user_id, product_id, type, at_ms, value, received_ms FROM other.event ORDER BY offset",
    "INSERT OR IGNORE INTO search (event_id, user_id, query, at_ms) "
    "SELECT event_id, user_id, query, at_ms FROM other.search ORDER BY offset",
    "INSERT INTO erasure SELECT * FROM other.erasure WHERE true ON CONFLICT (user_key) DO UPDATE SET "
    "user_id = coalesce(excluded.user_id, user_id), "
    "commit_number = max(commit_number, excluded.commit_number), at_ms = max(at_ms, excluded.at_ms)",
    "INSERT INTO intention SELECT * FROM other.intention WHERE true "
    "ON CONFLICT (user_key) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)",
    "INSERT INTO reached SELECT name, number FROM other.reached WHERE name = 'commit' "
    "ON CONFLICT (name) DO UPDATE SET number = max(number, excluded.number)",
    # An erasure that only one of the two had heard of.
    "DELETE FROM event WHERE EXISTS (SELECT * FROM erasure "
    "WHERE user_key = key_of(event.user_id) AND commit_number > 0 AND at_ms >= event.received_ms)",
    "DELETE FROM search WHERE EXISTS (SELECT * FROM erasure "
    "WHERE user_key = key_of(search.user_id) AND commit_number > 0 AND at_ms >= search.at_ms)",
)


def merge(home: Path, process: int, count: int) -> None:
    """Take the journals of processes that are not started any more into the journal of the first one.

    Their events then reach the graph, which has some of them already and knows each by its id. What a user did before
    an erasure that either journal knows of goes. May be stopped at any moment and run again.

    Args:
        home: where the journals are: `journal.db`, `journal-1.db`, ...
        process: which process this is; only the first one, 0, does it.
        count: how many processes there are now.

    Raises:
        JournalError: one of them is in use, or can't be read or written.
    """
    if process != 0:
        return
    for path in sorted(home.glob("journal-*.db")):
        number = path.stem.removeprefix("journal-")
        if number.isdigit() and int(number) >= count:
            with locked(home / "journal.db"):
                events = take_in(home / "journal.db", path)
            _log.info("journal_merged", journal=path.name, events=events)


def take_in(into: Path, path: Path) -> int:
    """Take a journal into another one and remove it; return how many events were new.

    Args:
        into: the journal that goes on; the caller has its lock.
        path: the one that goes, once all that it has is on disk in the other.

    Raises:
        JournalError: `path` is in use, or one of them can't be read or written; `path` stays as it is.
    """
    with locked(path):
        JournalFile(path)  # mended where it is damaged, with the tables of this version
        target = JournalFile(into)
        try:
            events = _copy(path, target)
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {path} can't be taken into {into.name}: {error}; it stays as it is",
                "Free space on that disk, or check it and the files' permissions.",
            ) from error
        # Before it is anybody else's: who opened it in between would write into a file that is no more.
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f".{path.name}.lock"):
            path.with_name(name).unlink(missing_ok=True)
    return events


def _copy(path: Path, target: JournalFile) -> int:
    """Copy what a journal has beyond another one into that one; return how many events."""
    with target.connection() as connection:
        connection.create_function("key_of", 1, user_key, deterministic=True)
        connection.execute("ATTACH ? AS other", (str(path),))
        connection.execute("BEGIN IMMEDIATE")
        changed = connection.total_changes
        connection.execute(_MERGE[0])
        events = connection.total_changes - changed
        for statement in _MERGE[1:]:
            connection.execute(statement)
        connection.execute("COMMIT")
    return events
