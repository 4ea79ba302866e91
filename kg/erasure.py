"""A person in the graph: everything that is stored about one, and its erasure.

What stays of an erased user is `(:Erasure {user, commit, at})`, where `user` is a hash of the id: enough to recognise
the id in an older snapshot, journal or backup, and to take it out there too. Whoever holds these hashes can test
whether an id that he has already is among them, and nothing else.
"""

import hashlib
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.commits import KEPT_PLAN, ChangeKind, Commit
from kg.tables import Tables
from kg.whole_rows import whole_rows

if TYPE_CHECKING:
    from kg.store import Graph

_PAGE = 5_000
_INTERACTIONS = "|".join(each.type for each in schema.INTERACTIONS)
_FORGET = (
    "OPTIONAL MATCH (u)--(x) WHERE (x:Query OR x:Attribute OR x:Entity) AND NOT EXISTS { "
    "MATCH (x)--(other) WHERE other <> u } "
    "WITH u, collect(DISTINCT x) AS own FOREACH (x IN own | DETACH DELETE x) DETACH DELETE u"
)
FORGET_UNLINKED = (
    "WITH x WHERE NOT EXISTS { (x)--() } SET x.id = x.id "  # a lock: whoever links it just now is waited for
    "WITH x WHERE NOT EXISTS { (x)--() } DELETE x"
)
"""Removes those nodes `x`, attributes or entities, that nothing is linked to any more."""
_LATEST = "e.at = CASE WHEN coalesce(e.at, 0) < $at THEN $at ELSE e.at END"
_TABLED = [*(each.type for each in schema.INTERACTIONS), schema.SEARCHED.type, schema.RECOMMENDED.type]


@dataclass(frozen=True, slots=True)
class Erasure:
    """A user that was erased: the hash of the id, the commit that did it, and when, ms since the epoch."""

    user_key: str
    commit: int
    at_ms: int


def user_key(user_id: str) -> str:
    """Return the hash by which an erased user is known."""
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"kgrank-erased").hexdigest()


def erase_user(graph: "Graph", user_id: str, at_ms: int | None = None) -> tuple[Erasure, int]:
    """Take a user out of the graph in one commit; return the erasure, and how many interactions went.

    Interactions, searches and recommendations go, and the words, attributes and entities that nobody else has. It may
    be run again; each time is an erasure of its own, for what has come since.

    Args:
        graph: an open graph.
        user_id: the user.
        at_ms: what servers received later than this is new, ms since the epoch; None: now. Of several erasures of a
            user the latest moment counts, in whatever order they are done.
    """
    at_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    key = user_key(user_id)

    def work(commit: Commit) -> tuple[Erasure, int]:
        count = commit.run(
            f"OPTIONAL MATCH (:User {{id: $user}})-[r:{_INTERACTIONS}]->() RETURN count(r)", user=user_id
        ).rows[0][0]
        commit.run(
            f"MATCH (u:User {{id: $user}}) {_FORGET}",
            user=user_id,
        )
        ((latest_ms,),) = commit.run(
            f"MERGE (e:Erasure {{user: $key}}) SET e.commit = $commit, {_LATEST} RETURN e.at",
            key=key,
            commit=commit.number,
            at=at_ms,
        ).rows
        commit.note(ChangeKind.USER_ERASED, key)
        return Erasure(key, commit.number, latest_ms), int(count)

    return graph.commit(work)


def erase_events(graph: "Graph", event_ids: Sequence[str]) -> int:
    """Take some interactions out of the graph; return how many there were."""
    count = 0
    for each in schema.INTERACTIONS:
        result = graph.write(
            f"UNWIND $rows AS id MATCH ()-[r:{each.type} {{event_id: id}}]->() "
            f"USING INDEX SEEK r:{each.type}(event_id) DELETE r",
            list(event_ids),
        )
        count += result.changes.get("relationships_deleted", 0)
    return count


def erase_again(graph: "Graph", erasures: Collection[Erasure]) -> int:
    """Take out of a graph that was restored from a backup whom it has not forgotten; return how many there were."""
    at_ms = {each.user_key: each.at_ms for each in erasures}
    ids = (user_id for (user_id,) in graph.read("MATCH (u:User) RETURN u.id"))
    # Somebody's own tools may have made users without an id that is text.
    back = [user_id for user_id in ids if isinstance(user_id, str) and user_key(user_id) in at_ms]
    for user_id in back:
        erase_user(graph, user_id, at_ms[user_key(user_id)])  # what came after it is new still
    for erasure in erasures:
        _remember(graph, erasure)
    return len(back)


def erased_users(commit: Commit, user_ids: Collection[str]) -> dict[str, int]:
    """Return those of some users who were erased, each with when, ms since the epoch."""
    ids = {user_key(user_id): user_id for user_id in user_ids}
    found = commit.run(f"{KEPT_PLAN}MATCH (e:Erasure) WHERE e.user IN $keys RETURN e.user, e.at", keys=list(ids)).rows
    return {ids[key]: int(at_ms) for key, at_ms in found}


def erase_loaded(graph: "Graph", tables: Tables, since: int) -> None:
    """Take out of the graph what tables brought of users who were erased while these were loaded.

    What such a user did after the erasure stays; who did nothing goes.

    Args:
        graph: the tables are in it.
        tables: what was loaded.
        since: the graph's last commit before that.
    """
    at_ms = {each.user_key: each.at_ms for each in erasures_since(graph, since)}
    if not at_ms:
        return
    erased = {user_id: at_ms[key] for user_id in _named(tables) if (key := user_key(user_id)) in at_ms}
    before = tables.interactions.filter(pc.invert(_later(tables, erased)))
    erase_events(graph, before["event_id"].to_pylist())
    # Attributes and facts have no time; and nobody but a load tells them of users.
    relations = [schema.HAS_ATTRIBUTE.type, *pc.unique(tables.facts["relation"]).to_pylist()]
    graph.write(
        "UNWIND $rows AS id MATCH (u:User {id: id}) SET u.attribute_keys = null, u.attribute_values = null "
        "WITH u MATCH (u)-[r]-(x) WHERE type(r) IN $relations DELETE r "
        "WITH collect(DISTINCT x) AS ends UNWIND ends AS x "
        f"WITH x WHERE x:Attribute OR x:Entity {FORGET_UNLINKED}",
        list(erased),
        relations=relations,
    )
    graph.write(
        f"UNWIND $rows AS id MATCH (u:User {{id: id}}) WHERE NOT EXISTS {{ (u)-[:{_INTERACTIONS}]->() }} {_FORGET}",
        list(erased),
    )


def _later(tables: Tables, erased: Mapping[str, int]) -> pa.ChunkedArray:
    """Return which interactions are later than their user's erasure `[N]`; all of a user who was not erased."""
    ids = pa.array(list(erased), pa.string())
    since = pa.array([*erased.values()], pa.int64()).take(pc.index_in(tables.interactions["user_id"], ids))
    return pc.fill_null(pc.greater(tables.interactions["at_ms"], since), True)


def _named(tables: Tables) -> set[str]:
    """Return the ids of the users whom tables say something of."""
    named = {user_id for column in (tables.users, tables.interactions) for user_id in _values(column["user_id"])}
    for side in ("head", "tail"):
        of_users = pc.equal(tables.facts[f"{side}_kind"], schema.USER.kind)
        named |= set(_values(tables.facts.filter(of_users)[side]))
    return named


def without_erased(graph: "Graph", tables: Tables) -> tuple[Tables, int]:
    """Return tables without what they say of users before their erasure, and how many rows that is.

    Attributes and facts have no time, so those of an erased user are left out whatever came after.
    """
    at_ms = {each.user_key: each.at_ms for each in erasures_since(graph, 0)}
    if not at_ms:
        return tables, 0
    erased = {user_id: at_ms[key] for user_id in _named(tables) if (key := user_key(user_id)) in at_ms}
    ids = pa.array(list(erased), pa.string())
    about = [
        pc.and_(pc.equal(tables.facts[f"{side}_kind"], schema.USER.kind), pc.is_in(tables.facts[side], ids))
        for side in ("head", "tail")
    ]
    kept = replace(
        tables,
        users=tables.users.filter(pc.invert(pc.is_in(tables.users["user_id"], ids))),
        interactions=tables.interactions.filter(_later(tables, erased)),
        facts=tables.facts.filter(pc.invert(pc.or_(*about))),
    )
    return kept, sum(len(table) for _, table in tables) - sum(len(table) for _, table in kept)


def _values(column: pa.ChunkedArray) -> list[str]:
    values: list[str] = pc.unique(column).to_pylist()
    return values


def _remember(graph: "Graph", erasure: Erasure) -> None:
    graph.write(
        "MERGE (e:Erasure {user: $key}) "
        "SET e.commit = CASE WHEN coalesce(e.commit, 0) < $commit THEN $commit ELSE e.commit END, "
        f"{_LATEST}",
        key=erasure.user_key,
        commit=erasure.commit,
        at=erasure.at_ms,
    )


def erasures_since(graph: "Graph", after: int) -> list[Erasure]:
    """Return the users that commits above `after` erased, in order."""
    query = "MATCH (e:Erasure) WHERE e.commit > $after RETURN e.user, e.commit, e.at ORDER BY e.commit"
    rows = whole_rows(lambda: graph.read(query, after=after), range(3), steady=True)
    return [Erasure(*row) for row in rows]


def erasures_of(graph: "Graph", user_keys: Collection[str]) -> dict[str, Erasure]:
    """Return the last erasure of each of some users, by key, who was erased."""
    query = "MATCH (e:Erasure) WHERE e.user IN $keys RETURN e.user, e.commit, e.at"
    rows = whole_rows(lambda: graph.read(query, keys=list(user_keys)), range(3), steady=True)
    return {row[0]: Erasure(*row) for row in rows}


def stored_of(graph: "Graph", user_id: str) -> Iterator[dict[str, Any]]:
    """Yield all that the graph has of a user, a dictionary each."""
    rows = graph.read("MATCH (u:User {id: $user}) RETURN u.attribute_keys, u.attribute_values", user=user_id)
    for keys, values in rows:  # either may be missing, of a user without any and of one who is just erased
        attributes = dict(zip(keys or (), values or (), strict=False))
        yield {"record": "user", "user_id": user_id, "attributes": attributes}
    kinds = {each.type: str(each.interaction) for each in schema.INTERACTIONS}
    for type_, event_id, product_id, at_ms, value in _pages(
        graph,
        f"MATCH (u:User {{id: $user}})-[r:{_INTERACTIONS}]->(p) "
        "RETURN type(r), r.event_id, p.id, r.at, r.value ORDER BY r.at, r.event_id",
        user_id,
        always=4,
    ):
        yield {
            "record": "interaction",
            "event_id": event_id,
            "type": kinds[type_],
            "product_id": product_id,
            "at_ms": at_ms,
            "value": value,
        }
    for text, at_ms in _pages(
        graph,
        "MATCH (u:User {id: $user})-[r:SEARCHED]->(q) RETURN q.text, r.at ORDER BY r.at, q.text",
        user_id,
        always=2,
    ):
        yield {"record": "search", "query": text, "at_ms": at_ms}
    for product_id, rank, score, model in _pages(
        graph,
        "MATCH (u:User {id: $user})-[r:RECOMMENDED]->(p) "
        "RETURN p.id, r.rank, r.score, r.model ORDER BY r.model, r.rank, p.id",
        user_id,
        always=4,
    ):
        yield {
            "record": "recommendation",
            "product_id": product_id,
            "rank": rank,
            "score": score,
            "publication": model,
        }
    for relation, outward, label, end in _pages(
        graph,
        "MATCH (u:User {id: $user})-[r]-(x) WHERE NOT type(r) IN $tabled "
        "RETURN type(r) AS relation, startNode(r) = u AS outward, labels(x)[0] AS label, "
        "coalesce(x.id, x.name, x.path) AS other ORDER BY relation, outward, label, other",
        user_id,
        always=4,
    ):
        yield {"record": "fact", "relation": relation, "outward": outward, "kind": label.lower(), "id": end}


def _pages(graph: "Graph", cypher: str, user_id: str, *, always: int) -> Iterator[list[Any]]:
    """Yield the rows of a query about a user; those without all of so many first columns are left out."""
    query = f"{cypher} SKIP $skipped LIMIT $limit"
    there = 0  # in a page, whole or not: what somebody's own tools added may have no name

    def read(skipped: int) -> list[list[Any]]:
        nonlocal there
        rows = graph.read(query, user=user_id, tabled=_TABLED, skipped=skipped, limit=_PAGE)
        there = len(rows)
        return rows

    for page in itertools.count():
        yield from whole_rows(partial(read, page * _PAGE), range(always))
        if there < _PAGE:
            return
