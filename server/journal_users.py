"""Where a user's rows are in a journal, which has no index by user: that would make every commit half as long again.

Who looks for a user reads all of the journal, beside those who write. Where that must hold up nobody, what was found
beforehand is looked at, and what has come since.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_TABLES = ("event", "search")
_USERS_AT_ONCE = 10_000

Row = tuple[int, str, str, str, str, int, float | None, int]
"""Of the table of events."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where rows of some users are.

    Args:
        offsets: by table and user.
        last: by table, the last offset that was looked at.
    """

    offsets: Mapping[tuple[str, str], Sequence[int]]
    last: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Gone:
    """What was erased of a user, and what is left: events, and how many searches and events not in the graph went."""

    events: Sequence[Row]
    left: Sequence[Row]
    undrained: int
    searches: int


def find(connection: sqlite3.Connection, user_ids: Collection[str]) -> Found:
    """Return where rows of some users are; reads the whole journal."""
    offsets: dict[tuple[str, str], list[int]] = defaultdict(list)
    last = {}
    for table in _TABLES:
        (last[table],) = connection.execute(f"SELECT coalesce(max(offset), 0) FROM {table}").fetchone()  # noqa: S608  # names of ours
        users = list(user_ids)
        for start in range(0, len(users), _USERS_AT_ONCE):
            some = users[start : start + _USERS_AT_ONCE]
            rows = connection.execute(
                f"SELECT offset, user_id FROM {table} WHERE offset <= ? AND user_id IN ({', '.join('?' * len(some))})",  # noqa: S608  # names of ours, and question marks
                (last[table], *some),
            )
            for offset, user_id in rows:
                offsets[table, user_id].append(offset)
    return Found(dict(offsets), last)


def events_of(connection: sqlite3.Connection, user_id: str, found: Found) -> list[Row]:
    """Return the events of a user, in order; reads those that were found, if they are still there, and what is new."""
    return connection.execute(
        "SELECT * FROM event WHERE offset IN (SELECT value FROM json_each(?)) ORDER BY offset",
        (_offsets(connection, "event", user_id, found),),
    ).fetchall()


def erase(connection: sqlite3.Connection, user_id: str, before_ms: int, found: Found) -> Gone:
    """Delete what a user did up to a moment, in a transaction that the caller has begun; reads as `events_of` does."""
    (drained,) = connection.execute("SELECT drained FROM journal").fetchone()
    gone: list[Row] = connection.execute(
        "DELETE FROM event WHERE offset IN (SELECT value FROM json_each(?)) AND received_ms <= ? RETURNING *",
        (_offsets(connection, "event", user_id, found), before_ms),
    ).fetchall()
    searches = connection.execute(
        "DELETE FROM search WHERE offset IN (SELECT value FROM json_each(?)) AND at_ms <= ?",
        (_offsets(connection, "search", user_id, found), before_ms),
    ).rowcount
    left = events_of(connection, user_id, found)
    return Gone(gone, left, sum(offset > drained for offset, *_ in gone), searches)


def _offsets(connection: sqlite3.Connection, table: str, user_id: str, found: Found) -> str:
    """Return where a user's rows of a table are now, as JSON; those that are gone among them."""
    new = connection.execute(
        f"SELECT offset FROM {table} WHERE offset > ? AND user_id = ?",  # noqa: S608  # names of ours
        (found.last[table], user_id),
    )
    return json.dumps([*found.offsets.get((table, user_id), ()), *(offset for (offset,) in new)])
