"""Is the event journal whole, does it drain, and does an erasure wait in it?"""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from server.doctor.findings import Finding, ok, problem, skipped, warning
from server.journal_repair import is_whole, tells_of_damage

if TYPE_CHECKING:
    from server.config import Settings

_LONG_S = 600


def check_journal(settings: "Settings") -> Iterator[Finding]:
    """Read the journal of each process, beside servers that may be writing them."""
    there = [path for path in sorted(settings.home.glob("journal*.db")) if path.is_file()]
    if not there:
        yield skipped("journal", f"there is no journal in {settings.home} yet", "The first `kgrank serve` makes it.")
    for path in there:
        yield from _check(path)


def _check(path: Path) -> Iterator[Finding]:
    damaged = problem(
        "journal",
        f"{path} is damaged",
        "Restart the server: it reads what can be read into a new one, and the log says how much (docs/durability.md).",
    )
    try:
        with _opened(path) as connection:
            if not is_whole(connection):
                yield damaged
                return
            count, oldest_ms = connection.execute(
                "SELECT count(*), min(received_ms) FROM event WHERE offset > (SELECT drained FROM journal)"
            ).fetchone()
            (erasures,) = connection.execute("SELECT count(*) FROM erasure WHERE user_id IS NOT NULL").fetchone()
    except (sqlite3.Error, OSError) as error:
        remedy = (
            f"May this user read and write it, the files beside it and {path.parent}? Does another program hold it?"
        )
        closed = problem("journal", f"{path} can't be read: {error}", remedy)
        yield damaged if isinstance(error, sqlite3.Error) and tells_of_damage(error) else closed
        return
    yield ok("journal", f"{path.name} is whole")
    age_s = 0 if oldest_ms is None else time.time() - oldest_ms / 1000
    if count and age_s > _LONG_S:
        yield warning(
            "journal",
            f"{count:,} events of {path.name} wait for the graph, the oldest for {age_s / 60:,.0f} minutes",
            "Is Neo4j up, and a server running that drains to it? Its log says `graph_away` and why.",
        )
    if erasures:
        yield warning(
            "journal",
            f"{erasures:,} erasures of users, written down in {path.name}, are not done",
            "A server with this journal does them once it reaches Neo4j. Is one running? Its log says `erasure_waits`.",
        )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading, and leave its folder as it was.

    SQLite would make the log (`-wal`) and what its readers share (`-shm`) where they are missing, as files of this
    user's, which a server of another one could not write.
    """
    path = path.resolve()  # SQLite has what belongs to a file beside it, not beside a link to it
    log, shared = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    where, how = path, "mode=ro"
    with ExitStack() as stack:
        if not log.exists():
            how = "immutable=1"  # no server has it open
        elif not shared.exists():
            where, how = Path(stack.enter_context(TemporaryDirectory())) / path.name, "mode=rw"
            for each in (path, log):
                shutil.copyfile(each, where.with_name(each.name))
        yield stack.enter_context(closing(sqlite3.connect(f"{where.as_uri()}?{how}", uri=True, timeout=5)))
