"""A journal whose file is damaged: what can be read of it goes into a new one, and the old one is put aside.

A torn end of the write-ahead log, which a power failure leaves, is none of this: SQLite leaves it out by its checksums.
"""

import os
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import structlog

from kg.tables import InteractionType

_log = structlog.get_logger(__name__)

_SUFFIXES = ("", "-wal", "-shm")
_TABLES = ("erasure", "intention", "reached", "search")
_OF_A_TYPE = f"type IN ({', '.join(repr(str(each)) for each in InteractionType)})"


def mend(path: Path) -> None:
    """Check a journal's file, and replace it by what can be read of it where it is damaged.

    The new one has another name, so that everything in it goes to the graph once more; the graph knows each event by
    its id. Where the process is killed on the way, the next one goes on from there: either the damaged file is in its
    place, or the new one is beside it, whole.

    Raises:
        sqlite3.Error: the file is no journal, or the new one can't be written.
        OSError: the disk fails.
    """
    began = time.monotonic()
    mended_name = f".{path.name}.mended-"
    for left in sorted(path.parent.glob(f"{mended_name}*")):
        _put_in_place(left, path, left.name.removeprefix(mended_name), began)
    if not path.exists() or path.stat().st_size == 0 or _is_sound(path):
        return
    at_ms = str(time.time_ns() // 1_000_000)
    partial = path.with_name(f".{path.name}.mending")
    for suffix in ("", "-journal"):  # of one that was killed while it wrote
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    partial.touch(mode=0o600)
    shutil.copymode(path, partial)
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(partial)) as mended:
        script = _schema(old)
        mended.executescript(script)
        old.text_factory = bytes  # which `_rows` decodes, each row by itself
        for row in _rows(old, "event", _OF_A_TYPE):
            marks = ", ".join("?" * len(row))
            with suppress(sqlite3.IntegrityError):
                mended.execute(f"INSERT INTO event VALUES ({marks})", row)  # noqa: S608  # only question marks
        for table in (each for each in _TABLES if f"CREATE TABLE {each} " in script):
            for row in _rows(old, table):
                marks = ", ".join("?" * len(row))
                mended.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608  # names of ours
        mended.commit()
    new = partial.rename(path.with_name(mended_name + at_ms))
    _flush(path.parent)  # before anything of the damaged one leaves its place
    _put_in_place(new, path, at_ms, began)


def _put_in_place(new: Path, path: Path, at_ms: str, began: float) -> None:
    """Put a whole new journal where the damaged one is, or what is still there of it; say so."""
    aside = path.with_name(f"{path.name}.damaged-{at_ms}")
    if aside.exists() and path.exists():
        other = new.rename(aside.with_name(f"{aside.name}.mended"))
        _log.warning("mended_journal_put_aside", aside=str(other), reason="another one has taken its place since")
        return
    with closing(sqlite3.connect(new)) as mended:
        events = mended.execute("SELECT count(*) FROM event").fetchone()[0]
    # Its log must not stay beside the new one: SQLite would read it into that.
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    new.rename(path)
    _flush(path.parent)
    _log.error(
        "journal_damaged",
        events_read=events,
        aside=str(aside),
        seconds=round(time.monotonic() - began, 2),
        remedy="Check the disk. What could not be read is in the graph if it was drained; see docs/durability.md.",
    )


def _flush(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            return is_whole(connection)
    except sqlite3.DatabaseError as error:
        if not tells_of_damage(error):
            raise
        return False


def is_whole(connection: sqlite3.Connection) -> bool:
    """Return whether all of a journal can be read, each text of it, too: SQLite's own check looks at none.

    Raises:
        sqlite3.Error: it can't be, or the file can't be opened; `tells_of_damage` knows which.
    """
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        return False
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = "event_id, user_id, product_id" if table == "event" else "*"  # half the time, where there are many
        deque(connection.execute(f"SELECT {columns} FROM {table}"), maxlen=0)  # noqa: S608  # the file's own names
    if "event" not in tables:
        return True
    # One flipped bit makes a text something else, which equals no text.
    no_text = " OR ".join(f"typeof({name}) <> 'text'" for name in ("event_id", "user_id", "product_id"))
    odd = f"SELECT 1 FROM event WHERE NOT {_OF_A_TYPE} OR {no_text} LIMIT 1"  # noqa: S608  # names of ours
    return connection.execute(odd).fetchone() is None


def tells_of_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that the file is damaged, and not that it can't be opened, say."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own, not SQLite's
        return "decode to UTF-8" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)  # above that stands which kind of it


def _schema(old: sqlite3.Connection) -> str:
    """Return the statements that made the tables; those of the file itself, so that the columns fit."""
    rows = old.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
    if not any("CREATE TABLE event" in row[0] for row in rows):
        raise sqlite3.DatabaseError("its first page is damaged, or it is no journal")
    return ";\n".join(row[0] for row in rows)


def _rows(old: sqlite3.Connection, table: str, only: str = "true") -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table that can be read, but for those with a text that can't be."""
    for row in _from_both_ends(old, table, only):
        try:
            decoded = tuple(each.decode() if isinstance(each, bytes) else each for each in row)
        except UnicodeDecodeError:
            continue
        yield decoded


def _from_both_ends(old: sqlite3.Connection, table: str, only: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table from its beginning, and from its end, as far as each can be read."""
    last = -1
    query = f"SELECT rowid, * FROM {table} WHERE rowid > ? AND {only} ORDER BY rowid"  # noqa: S608  # names of ours
    try:
        for rowid, *row in old.execute(query, (last,)):
            last = rowid
            yield tuple(row)
    except sqlite3.DatabaseError:
        with suppress(sqlite3.DatabaseError):
            for _, *row in old.execute(f"{query} DESC", (last,)):
                yield tuple(row)
