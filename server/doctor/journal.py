"""Is the event journal whole, and does it drain?"""

import sqlite3
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.doctor.findings import Finding, ok, problem, skipped, warning

if TYPE_CHECKING:
    from server.config import Settings

_LONG_S = 600


def check_journal(settings: "Settings") -> Iterator[Finding]:
    """Read the journal, beside a server that may be writing it."""
    path = settings.journal_file
    if not path.is_file():
        yield skipped("journal", f"there is no {path} yet", "The first `kgrank serve` makes it.")
        return
    damaged = problem(
        "journal",
        f"{path} is damaged",
        "Stop the server; docs/durability.md says what it does with a damaged page, and how to restore.",
    )
    try:
        connection = sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=5)
        try:
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                yield damaged
                return
            count, oldest_ms = connection.execute(
                "SELECT count(*), min(received_ms) FROM event WHERE offset > (SELECT drained FROM journal)"
            ).fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        yield damaged
        return
    yield ok("journal", "the journal is whole")
    age_s = 0 if oldest_ms is None else time.time() - oldest_ms / 1000
    if count and age_s > _LONG_S:
        yield warning(
            "journal",
            f"{count:,} events wait for the graph, the oldest for {age_s / 60:,.0f} minutes",
            "Is Neo4j up, and a server running that drains to it? Its log says `drain_waits` and why.",
        )
