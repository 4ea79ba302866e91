"""The one sequence that orders everything written online: commits, what each changed, and how others follow.

A commit is a transaction that first takes the lock on `(:CommitSequence)` and adds 1 to its number. So commits become
visible in the order of their numbers, and whoever has read number n (`Graph.last_commit`) then finds everything up to
n. What a commit changed is found by its number: interactions carry it, everything else leaves a
`(:Change {commit, kind, key})`.

    def work(commit: Commit) -> None:
        commit.run("MATCH (p:Product {id: $id}) SET p.price = $price", id="beans-001", price=4.5)
        commit.note(ChangeKind.PRODUCT, "beans-001")

    graph.commit(work)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kg import schema
from kg.tables import InteractionType
from kg.whole_rows import is_whole, whole_rows

if TYPE_CHECKING:
    from kg.store import Graph, Result

T = TypeVar("T")

CHANGES_KEPT_MS = 30 * 24 * 3_600_000
"""How long a `Change` stays; a server can't follow from a snapshot that is older."""

_ALWAYS = range(5)
"""Which of the columns every event has, in what is read here."""
_EVENTS_AT_ONCE = 20_000
_CHANGES_AT_ONCE = 1_000
MARGIN = 1_000_000
"""How far a graph that was put back goes on above the commits that one server knows: another may know later ones."""
FORGOTTEN_AT_ONCE = 10_000
"""Changes that `forget_old_changes` removes at most."""

_KIND_OF_TYPE = {type_.type: kind for kind, type_ in schema.RELATIONSHIP_OF.items() if kind is not None}

KEPT_PLAN = "CYPHER replan=skip "
"""Begins a query that is asked all day and answered by indexes: Neo4j plans it once, not again as the graph grows.

Planning what `events_of` asks took up to 3.8 s, in which a server was behind the others.
"""

_TAKE = f"""{KEPT_PLAN}
MERGE (s:CommitSequence {{name: 'commits'}})
SET s.locked = true  // takes the lock before the number is read: without it, two commits could read the same one
WITH s SET s.number = coalesce(s.number, 0) + 1
REMOVE s.locked
RETURN s.number
"""
_NOTE = f"""{KEPT_PLAN}
UNWIND $rows AS row
CREATE (:Change {{commit: $commit, kind: row[0], key: row[1], at: $at}})
"""
_KEEP_MODEL = """
MATCH (s:CommitSequence {name: 'commits'}) SET s.model = $key, s.model_commit = $commit, s.model_at = $at
"""


class ChangeKind(StrEnum):
    """What a commit changed; `key` of the change names which one."""

    EVENTS = "events"
    """Interactions were added; the key is the name of the journal that they came from."""
    PRODUCT = "product"
    """A product was added or changed; the key is its id."""
    PRODUCT_DELETED = "product_deleted"
    """A product was taken out of the catalogue; the key is its id."""
    FACTS = "facts"
    """Facts of a product were added or removed; the key is its id."""
    RULE = "rule"
    """A rule was added, changed or removed; the key is its id."""
    MODEL = "model"
    """Which models answer whom was changed; the key says how (`server.traffic`). The last one is never forgotten."""
    USER_ERASED = "user_erased"
    """A user was erased; the key is the hash of its id (`kg.erasure.user_key`)."""


_KINDS = frozenset(str(kind) for kind in ChangeKind)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a commit changed, and when, in milliseconds since the epoch by the writer's clock."""

    commit: int
    kind: ChangeKind
    key: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class CommittedEvent:
    """An interaction that was written online, with the commit that wrote it; `value` is None where it has none.

    Those of one user and time stand in the order of `position`, then of `event_id`, as in a snapshot (`kg.freeze`).
    """

    commit: int
    event_id: str
    user_id: str
    product_id: str
    type: InteractionType
    at_ms: int
    value: float | None
    position: int


class _Run(Protocol):
    def __call__(self, cypher: str, parameters: dict[str, Any]) -> "Result": ...


class Commit:
    """A transaction that has its number: everything in it is seen together, after all smaller numbers.

    Args:
        run: runs a query inside the transaction.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._noted: dict[tuple[ChangeKind, str], None] = {}
        self.number = int(run(_TAKE, {}).rows[0][0])

    def run(self, cypher: str, rows: Any = None, **parameters: Any) -> "Result":
        """Run a query inside the transaction; `$rows` and the other parameters as in `Graph.write`."""
        return self._run(cypher, parameters if rows is None else {**parameters, "rows": rows})

    def note(self, kind: ChangeKind, key: str) -> None:
        """Tell the other servers, and this one, that something was changed."""
        self._noted[kind, key] = None

    def finish(self) -> None:
        """Write what was noted; `Graph.commit` calls it."""
        if self._noted:
            rows, at = [[str(kind), key] for kind, key in self._noted], time.time_ns() // 1_000_000
            self.run(_NOTE, rows, commit=self.number, at=at)
            models = [key for kind, key in self._noted if kind is ChangeKind.MODEL]
            if models:
                self.run(_KEEP_MODEL, key=models[-1], commit=self.number, at=at)


def hold(run: _Run) -> int:
    """Take the lock that every commit begins with; return the number of the last one."""
    taken = "MERGE (s:CommitSequence {name: 'commits'}) SET s.locked = true RETURN coalesce(s.number, 0)"
    return int(run(taken, {}).rows[0][0])


Work = Callable[[Commit], T]
"""What a commit does. It may run more than once, each time in a new transaction: it must have no other effect."""


def last_number(run: _Run) -> int:
    """Return the number of the last commit, 0 if there was none."""
    rows = run(f"{KEPT_PLAN}MATCH (s:CommitSequence {{name: 'commits'}}) RETURN s.number", {}).rows
    return int(rows[0][0]) if rows else 0


def changes_since(graph: "Graph", after: int, limit: int = _CHANGES_AT_ONCE) -> list[Change]:
    """Return the changes of commits above `after`, in order: at least `limit` if there are so many, whole commits."""
    changes: list[Change] = []
    while True:
        rows = graph.read(
            f"{KEPT_PLAN}MATCH (c:Change) WHERE c.commit > $after WITH c.commit AS number ORDER BY number LIMIT $limit "
            "WITH max(number) AS last MATCH (c:Change) WHERE c.commit > $after AND c.commit <= last "
            "RETURN c.commit, c.kind, c.key, c.at ORDER BY c.commit",
            after=after,
            limit=limit,
        )
        # A newer version may write kinds that this one knows nothing of, and keeps nothing of. They count for none of
        # `limit`: a page that they fill is not the last.
        changes += [Change(commit, ChangeKind(kind), key, at) for commit, kind, key, at in rows if kind in _KINDS]
        if len(rows) < limit or len(changes) >= limit:
            return changes
        after = rows[-1][0]


def last_model_change(graph: "Graph") -> Change | None:
    """Return the last change of which models answer whom, however long ago it was; None where there was none."""
    rows = graph.read(
        "MATCH (s:CommitSequence {name: 'commits'}) WHERE s.model IS NOT NULL "
        "RETURN s.model_commit, s.model, s.model_at"
    )
    return next((Change(commit, ChangeKind.MODEL, key, at) for commit, key, at in rows), None)


def forgotten_until(graph: "Graph") -> int:
    """Return the last commit whose changes are no longer known, 0 if all are: nobody can follow from before it."""
    rows = graph.read("MATCH (s:CommitSequence {name: 'commits'}) RETURN coalesce(s.forgotten, 0)")
    return int(rows[0][0]) if rows else 0


def events_since(graph: "Graph", after: int, until: int | None = None) -> Iterator[list[CommittedEvent]]:
    """Yield the interactions of commits above `after`, and up to `until` if given, in blocks.

    They are in the order of commits within a type, not across types: who needs that sorts them by time and position.
    """
    for relationship in schema.INTERACTIONS:
        kind = relationship.interaction
        assert kind is not None  # for mypy: every one of INTERACTIONS has one
        last, more = after, True
        while more:
            read = _events(graph, relationship.type, last, until)
            more = len(read) == _EVENTS_AT_ONCE
            rows = [row for row in read if is_whole(row, _ALWAYS)]  # the others have just been erased
            if more and rows and rows[0][0] < rows[-1][0]:
                # The last commit may go on beyond this block.
                rows = [row for row in rows if row[0] < rows[-1][0]]
            if rows:
                last = rows[-1][0]
                yield [
                    CommittedEvent(commit, event_id, user_id, product_id, kind, at_ms, value, position)
                    for commit, user_id, product_id, at_ms, position, event_id, value in rows
                ]


def events_of(graph: "Graph", numbers: Sequence[int]) -> list[CommittedEvent]:
    """Return the interactions that some commits wrote, by commit."""
    if not numbers:
        return []
    branches = " UNION ALL ".join(
        f"WITH number MATCH (u)-[r:{each.type} {{commit: number}}]->(p) USING INDEX SEEK r:{each.type}(commit) "
        "RETURN type(r) AS type, r.event_id AS event_id, u.id AS user, p.id AS product, r.at AS at, "
        "r.position AS position, r.value AS value"
        for each in schema.INTERACTIONS
    )
    query = (
        f"{KEPT_PLAN}UNWIND $numbers AS number CALL {{ {branches} }} "
        "RETURN number, user, product, at, position, type, event_id, value ORDER BY number"
    )
    rows = whole_rows(lambda: graph.read(query, numbers=list(numbers)), _ALWAYS)
    return [
        CommittedEvent(commit, event_id, user_id, product_id, _KIND_OF_TYPE[type_], at_ms, value, position)
        for commit, user_id, product_id, at_ms, position, type_, event_id, value in rows
    ]


def next_with_events(graph: "Graph", after: int) -> int | None:
    """Return the first commit above `after` that wrote interactions; None where none did."""
    branches = " UNION ALL ".join(
        f"MATCH ()-[r:{each.type}]->() WHERE r.commit > $after RETURN min(r.commit) AS number"
        for each in schema.INTERACTIONS
    )
    [[number]] = graph.read(f"{KEPT_PLAN}CALL {{ {branches} }} RETURN min(number)", after=after)
    return None if number is None else int(number)


def advance(graph: "Graph", least: int, margin: int = 0) -> int:
    """Make sure that the next commit's number is above `least`; return the last number now.

    A graph that was restored from a backup would else give numbers again that servers and snapshots have seen already.

    Args:
        graph: an open graph.
        least: a number that was given.
        margin: how much further one goes on that had fallen below it.
    """
    rows = graph.write(
        "MERGE (s:CommitSequence {name: 'commits'}) SET s.locked = true "
        "WITH s, coalesce(s.number, 0) AS now SET s.number = CASE WHEN now < $least THEN $least + $margin ELSE now END "
        "REMOVE s.locked RETURN s.number",
        least=least,
        margin=margin,
    ).rows
    return int(rows[0][0])


def _events(graph: "Graph", type_: str, after: int, until: int | None) -> list[list[Any]]:
    query = (
        f"MATCH (u)-[r:{type_}]->(p) WHERE r.commit > $after AND r.commit <= $until "
        "WITH u, r, p ORDER BY r.commit LIMIT $limit "
        "RETURN r.commit, u.id, p.id, r.at, r.position, r.event_id, r.value"
    )
    return graph.read(query, after=after, until=(1 << 62) if until is None else until, limit=_EVENTS_AT_ONCE)


def forget_old_changes(graph: "Graph", before_ms: int) -> int:
    """Remove the changes before a moment, at most `FORGOTTEN_AT_ONCE`, and note how far that went; return how many."""
    result = graph.write(
        "MATCH (c:Change) WHERE c.commit > 0 WITH c ORDER BY c.commit LIMIT $limit "
        "WITH c WHERE c.at < $before WITH collect(c) AS gone, max(c.commit) AS last WHERE last IS NOT NULL "
        "MATCH (s:CommitSequence {name: 'commits'}) "
        "SET s.forgotten = CASE WHEN coalesce(s.forgotten, 0) < last THEN last ELSE s.forgotten END "
        "WITH gone UNWIND gone AS c DELETE c",
        limit=FORGOTTEN_AT_ONCE,
        before=before_ms,
    )
    return result.changes.get("nodes_deleted", 0)
