"""The graph store: the one place that calls Neo4j's driver, embedded or a server alike.

The driver's errors are told in ours by `kg.store_errors`, and its types of values are those of `kg.property_values`.
Everything else (`kg.loading`, `kg.exporting`, recipes, publishing) goes through `Graph.read` and `Graph.write`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from kg.appending import append_events, append_searches, journal_offset
from kg.commits import (
    CHANGES_KEPT_MS,
    Change,
    Commit,
    CommittedEvent,
    Work,
    advance,
    changes_since,
    events_of,
    events_since,
    forget_old_changes,
    forgotten_until,
    hold,
    last_number,
)
from kg.config import GraphSettings
from kg.disk_room import refuse_full
from kg.embedded import embedded
from kg.errors import GraphError, MissingExtraError
from kg.exporting import export
from kg.loading import LoadReport, load
from kg.progress import SILENT, Progress
from kg.schema import constraints, indexes, name_in
from kg.tables import Tables

try:
    import neo4j
    import neo4j.exceptions
    import neo4j.graph

    from kg.store_errors import our_errors
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        f"the package {missing.name!r} is not installed; the graph needs it",
        "Install it: pip install '.[graph]' in kgrank's clone",
    ) from missing

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10.0
_COMMIT_RETRIES_S = 5.0
_RETRY_AFTER_S = 0.05
_SCHEMES = {f"{name}{security}" for name in ("bolt", "neo4j") for security in ("", "+s", "+ssc")}


@dataclass(frozen=True)
class Result:
    """What a query returned: column names, rows, and what it changed (`nodes_created`, say; only what is not 0)."""

    columns: list[str]
    rows: list[list[Any]]
    changes: dict[str, int] = field(default_factory=dict)

    def plain_rows(self) -> list[list[Any]]:
        """Return the rows with nodes, relationships, paths and times as plain values, for tables and JSON."""
        return [[_plain(value) for value in row] for row in self.rows]


def _plain(value: Any) -> Any:
    match value:
        case neo4j.graph.Node():
            return {"labels": sorted(value.labels), **_plain(dict(value))}
        case neo4j.graph.Relationship():
            return {"type": value.type, **_plain(dict(value))}
        case neo4j.graph.Path():
            return [
                _plain(part)
                for pair in zip(value.nodes, (*value.relationships, None), strict=True)
                for part in pair
                if part is not None  # a relationship without properties is falsy
            ]
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case None | bool() | int() | float() | str():
            return value
    return value.iso_format() if hasattr(value, "iso_format") else str(value)


class Graph:
    """An open graph. Safe to share between threads; `connect` makes and closes it.

    Args:
        driver: a driver that has answered.
        database: its database.
        place: where it is, for messages; never holds a password.
        folder: the embedded one's, whose disk must have room for what is written; None for one of somebody else.
    """

    def __init__(self, driver: neo4j.Driver, database: str, place: str, folder: Path | None = None) -> None:
        self._driver = driver
        self._database = database
        self._folder = folder
        self._seen = neo4j.Bookmarks.from_raw_values([])
        self.place = place

    @classmethod
    @contextmanager
    def connect(
        cls, settings: GraphSettings, folder: Path, told: Callable[[str], None] = lambda line: None
    ) -> Iterator["Graph"]:
        """Open the graph for the duration of a `with` block: the server of `settings.uri`, else the embedded one.

        Args:
            settings: where the graph is.
            folder: the embedded Neo4j's folder; the one that runs there is used, else one is started meanwhile.
            told: hears what takes long.

        Raises:
            GraphUnavailableError: it does not answer.
            GraphAuthError: it refuses the user or password.
            GraphError: the embedded one can't be started.
        """
        if settings.uri is not None:
            with cls._open(settings.uri, (settings.user, settings.read_password()), settings.database) as graph:
                yield graph
            return
        with (
            embedded(folder, settings, told) as endpoint,
            cls._open(endpoint.uri, (endpoint.user, endpoint.password), "neo4j", folder) as graph,
        ):
            yield graph

    @classmethod
    @contextmanager
    def _open(cls, uri: str, auth: tuple[str, str], database: str, folder: Path | None = None) -> Iterator["Graph"]:
        if uri.partition("://")[0] not in _SCHEMES:
            raise GraphError(
                f"the graph's address {uri!r} is not one of Bolt", "Write bolt://host:7687 or neo4j://host."
            )
        with our_errors(uri):
            driver = neo4j.GraphDatabase.driver(
                uri,
                auth=auth,
                connection_timeout=_CONNECT_TIMEOUT_S,
                max_transaction_retry_time=30.0,
                notifications_min_severity="OFF",
                telemetry_disabled=True,
            )
        with driver:
            graph = cls(driver, database, uri, folder)
            # Not a managed transaction: a wrong address or password is to be said at once, not retried.
            with our_errors(uri), driver.session(database=database) as session:
                session.run("RETURN 1").consume()
            yield graph

    def ensure_schema(self) -> None:
        """Make every constraint and index that is not there yet, and wait until the indexes answer."""
        shown = (*self.read("SHOW CONSTRAINTS YIELD name"), *self.read("SHOW INDEXES YIELD name"))
        there = {name for (name,) in shown}
        for statement in (*constraints(), *indexes()):
            if name_in(statement) not in there:  # else a graph that can only be read for now could not be opened
                self.write(statement)
        self.read("CALL db.awaitIndexes(300)")

    def read(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        """Run a reading query in a managed transaction; return its rows, each a list in column order."""
        return self.query(cypher, parameters).rows

    def write(self, cypher: str, rows: Sequence[Any] | None = None, **parameters: Any) -> Result:
        """Run a writing query in a managed transaction, retried when the store asks for it.

        Args:
            cypher: the text; may hold names of `kg.schema`, never values.
            rows: what `$rows` stands for; bound the size of one call (see `kg.batches`).
            parameters: the other parameters.
        """
        return self.query(cypher, parameters if rows is None else {**parameters, "rows": rows}, write=True)

    def query(self, cypher: str, parameters: dict[str, Any] | None = None, *, write: bool = False) -> Result:
        """Run any query.

        Raises:
            GraphError: the query is wrong, or writes although `write` is not set.
            GraphFullError: it writes, and the disk is full; nothing was done.
            GraphUnavailableError: the store does not answer any more.
        """
        if write:
            self._refuse_full()
        with (
            our_errors(self.place),
            self._driver.session(
                database=self._database,
                default_access_mode=neo4j.WRITE_ACCESS if write else neo4j.READ_ACCESS,
                bookmarks=None if write else self._seen,
                fetch_size=1000,
            ) as session,
        ):
            run = session.execute_write if write else session.execute_read
            return run(_run, cypher, parameters or {})

    def stream(self, cypher: str, **parameters: Any) -> Iterator[list[Any]]:
        """Yield the rows of a reading query as they come: for results that are too large to hold.

        Raises:
            GraphError: the query is wrong, or writes.
            GraphUnavailableError: the store went away; what was yielded is a part.
        """
        with (
            our_errors(self.place),
            self._driver.session(
                database=self._database,
                default_access_mode=neo4j.READ_ACCESS,
                bookmarks=self._seen,
                fetch_size=1000,
            ) as session,
        ):
            for record in session.run(cypher, parameters):
                yield list(record)

    @contextmanager
    def commits_held(self) -> Iterator[int]:
        """Let no commit begin for the length of a `with` block; yield the number of the last one.

        Raises:
            GraphUnavailableError: the store does not answer.
        """
        with (
            our_errors(self.place),
            self._driver.session(database=self._database) as session,
            session.begin_transaction() as transaction,
        ):
            yield hold(partial(_run, transaction))
            transaction.rollback()

    def commit(self, work: Work[T], *, patience_s: float = _COMMIT_RETRIES_S) -> T:
        """Run a numbered transaction (see `kg.commits`), and return what its work returns.

        Args:
            work: what it does; run again, in a new transaction, where the store asks for that (a deadlock, say).
            patience_s: how long it is tried again. A store that is away is told at once: a caller waits.

        Raises:
            GraphUnavailableError: the store does not answer; where it went away during the commit itself, the work may
                have been done.
            GraphBusyError: others were in the way for too long; nothing was done.
            GraphFullError: the disk is full; nothing was done.
            GraphError: the store refused it; nothing was done.
        """
        self._refuse_full()
        deadline = time.monotonic() + patience_s
        stale = True  # a pooled connection may be one to a store that has restarted since
        with our_errors(self.place), self._driver.session(database=self._database) as session:
            while True:
                try:
                    with session.begin_transaction() as transaction:
                        commit = Commit(partial(_run, transaction))
                        done = work(commit)
                        commit.finish()
                        transaction.commit()
                        return done
                except (neo4j.exceptions.IncompleteCommit, neo4j.exceptions.DatabaseUnavailable):
                    raise
                except (neo4j.exceptions.ServiceUnavailable, neo4j.exceptions.SessionExpired):
                    if not stale:
                        raise
                    stale = False
                except neo4j.exceptions.TransientError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_RETRY_AFTER_S)

    def _refuse_full(self) -> None:
        if self._folder is not None:
            with our_errors(self.place):
                refuse_full(self._folder)

    @property
    def last_commit(self) -> int:
        """The number of the last commit, 0 if there was none; what is read after it sees all commits up to it.

        Neo4j shows the number a moment before its indexes find what the commit wrote (and another member of a cluster
        may be behind), so the reads that follow wait for the bookmark of this one. This one waits for none: a store
        that was put back to an earlier state would never reach it.
        """
        return self._last_commit(neo4j.READ_ACCESS)

    def last_commit_from(self, known: int) -> int:
        """Return the number of the last commit, as `last_commit` does, to somebody who knows of one already.

        A member of a cluster that tells of less may just be behind: the one that writes is asked then, and what is read
        after it sees as much. Where that tells of less, too, the store was put back to an earlier state.
        """
        number = self.last_commit
        return number if number >= known else self._last_commit(neo4j.WRITE_ACCESS)

    def _last_commit(self, access: str) -> int:
        with (
            our_errors(self.place),
            self._driver.session(database=self._database, default_access_mode=access) as session,
        ):
            run = session.execute_write if access == neo4j.WRITE_ACCESS else session.execute_read
            number = run(lambda transaction: last_number(partial(_run, transaction)))
            self._seen = session.last_bookmarks()
            return number

    def changes_since(self, after: int, limit: int = 1_000) -> list[Change]:
        """Return what commits above `after` changed, in order (see `kg.commits`)."""
        return changes_since(self, after, limit)

    def events_since(self, after: int, until: int | None = None) -> Iterator[list[CommittedEvent]]:
        """Yield the interactions that commits above `after`, and up to `until`, wrote (see `kg.commits`)."""
        return events_since(self, after, until)

    def events_of(self, numbers: Sequence[int]) -> list[CommittedEvent]:
        """Return the interactions that some commits wrote (see `kg.commits`)."""
        return events_of(self, numbers)

    @property
    def forgotten_until(self) -> int:
        """The last commit whose changes are no longer known, 0 if all are."""
        return forgotten_until(self)

    def forget_old_changes(self) -> int:
        """Remove changes of more than `CHANGES_KEPT_MS` ago, some at a time; return how many."""
        return forget_old_changes(self, time.time_ns() // 1_000_000 - CHANGES_KEPT_MS)

    def advance_commits(self, least: int, margin: int = 0) -> int:
        """Make sure that the next commit's number is above `least` (see `kg.commits`); return the last number now."""
        return advance(self, least, margin)

    def load(self, tables: Tables, progress: Progress = SILENT) -> LoadReport:
        """Put canonical tables into the graph; what is there already stays as it is (see `kg.loading`)."""
        return load(self, tables, progress)

    def export(self, as_of_ms: int | None = None, progress: Progress = SILENT) -> Tables:
        """Return the graph as canonical tables, sorted (see `kg.exporting`)."""
        return export(self, as_of_ms, progress)

    def append_events(
        self, interactions: pa.Table, journal: str, offset: int, received_ms: Sequence[int] | None = None
    ) -> int:
        """Add events and remember the journal's offset in one transaction (see `kg.appending`); return the new ones."""
        return append_events(self, interactions, journal, offset, received_ms)

    def append_searches(self, searches: Sequence[tuple[str, str, str, int]]) -> None:
        """Add searches: event id, user id, what was typed, when."""
        append_searches(self, searches)

    def journal_offset(self, journal: str) -> int:
        """Return how far a journal has reached the graph; 0 if it never has."""
        return journal_offset(self, journal)


def _run(transaction: neo4j.ManagedTransaction | neo4j.Transaction, cypher: str, parameters: dict[str, Any]) -> Result:
    result = transaction.run(cypher, parameters)
    columns = list(result.keys())
    rows = [list(record) for record in result]
    counters = result.consume().counters
    changes = {
        name: value
        for name, value in vars(counters).items()
        if isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_") and value
    }
    return Result(columns, rows, changes)
