"""Events into the journal's table, many with one statement.

Python's SQLite lets go of the interpreter at every step of a statement, and may wait milliseconds until a busy event
loop gives it back. So it is the number of steps, not of rows, that a batch takes its time for.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from server.contract import WrittenEvent

_ROWS = (256, 64, 16, 4, 1)
"""Rows of one statement, the most first: few sizes, so that SQLite has each statement ready."""

_COLUMNS = ("event_id", "user_id", "product_id", "type", "at_ms", "value", "received_ms")
_MARKS = f"({', '.join('?' * len(_COLUMNS))})"
_INSERT = {
    rows: f"INSERT INTO event ({', '.join(_COLUMNS)}) VALUES {', '.join([_MARKS] * rows)} "  # noqa: S608  # names and question marks
    "ON CONFLICT (event_id) DO NOTHING"
    for rows in _ROWS
}
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'"
_NEW = "SELECT json_group_array(json_array(event_id, offset)) FROM event WHERE offset > ?"
_KNOWN = "SELECT offset FROM event WHERE event_id = ?"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an event: its offset, and whether an event with its id was there before."""

    offset: int
    event_id: str
    duplicate: bool


def insert(connection: sqlite3.Connection, events: Sequence[WrittenEvent], now_ms: int) -> list[Stored]:
    """Store events, in a transaction that the caller has begun; return what became of each.

    Args:
        connection: of the journal.
        events: new ones get offsets in this order; the second of two with one id is a duplicate.
        now_ms: when they were received.
    """
    (last,) = connection.execute(_LAST).fetchone()
    at = 0
    for rows in _ROWS:
        while len(events) - at >= rows:
            connection.execute(
                _INSERT[rows], [value for each in events[at : at + rows] for value in _row(each, now_ms)]
            )
            at += rows
    new: dict[str, int] = dict(json.loads(connection.execute(_NEW, (last,)).fetchone()[0]))
    outcomes, seen = [], set[str]()
    for each in events:
        offset = new.get(each.event_id)
        duplicate = offset is None or each.event_id in seen
        if offset is None:
            offset = connection.execute(_KNOWN, (each.event_id,)).fetchone()[0]
        seen.add(each.event_id)
        outcomes.append(Stored(offset, each.event_id, duplicate))
    return outcomes


def _row(event: WrittenEvent, now_ms: int) -> tuple[object, ...]:
    return (event.event_id, event.user_id, event.product_id, str(event.type), event.at_ms, event.value, now_ms)
