"""A server's journal into the graph: events and the journal's offset in one transaction, so each event once.

A server hears of another's erasure of a user a little later. What it had received of the user before is left out here,
in the transaction that sees the erasure: it would bring the user back.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.commits import KEPT_PLAN, ChangeKind, Commit
from kg.erasure import erased_users
from kg.known_events import known_event
from kg.loading import BARE_PRODUCTS, EVENT_COLUMNS, lists_of_rows
from kg.tables import InteractionType

if TYPE_CHECKING:
    from kg.store import Graph


def append_events(
    graph: "Graph", interactions: pa.Table, journal: str, offset: int | None, received_ms: Sequence[int] | None = None
) -> int:
    """Add a journal's events and remember its offset, in one transaction: applied once, not twice.

    Args:
        graph: an open graph.
        interactions: events, `kg.tables.INTERACTIONS`; users that are new are made, and so are products, bare: a graph
            that is built anew while a server runs loses no event, and the next load fills them.
        journal: the journal's name.
        offset: the offset after the last of these events; an offset that the graph has passed already changes nothing.
            None: the graph had them, and lost them since with others; how far it has the journal stays as it is.
        received_ms: when a server received each of them, ms since the epoch; one that came before its user's erasure is
            left out. None: after every erasure.

    Returns:
        How many events were new.
    """

    def work(commit: Commit) -> int:
        kept = interactions if received_ms is None else _not_erased(commit, interactions, received_ms)
        text, products, parameters = _statement(kept)
        result = commit.run(text, products, commit=commit.number, journal=journal, offset=offset, **parameters)
        created = result.changes.get("relationships_created", 0)
        if created:
            commit.note(ChangeKind.EVENTS, journal)
        return created

    return graph.commit(work)


def _not_erased(commit: Commit, interactions: pa.Table, received_ms: Sequence[int]) -> pa.Table:
    user_ids = interactions["user_id"].to_pylist()
    erased = erased_users(commit, set(user_ids))
    return interactions.filter(
        pa.array(at_ms > erased.get(user_id, -1) for user_id, at_ms in zip(user_ids, received_ms, strict=True))
    )


def _statement(interactions: pa.Table) -> tuple[str, list[dict[str, str]], dict[str, Any]]:
    """Return the Cypher text that adds events, its rows, and its other parameters."""
    text = (
        f"{KEPT_PLAN}MERGE (j:Journal {{name: $journal}}) WITH j "
        "WHERE $offset IS NULL OR coalesce(j.offset, -1) < $offset "
        f"SET j.offset = coalesce($offset, j.offset) WITH j CALL (j) {{ {BARE_PRODUCTS} }} "
    )
    products = [{"product_id": product_id} for product_id in pc.unique(interactions["product_id"]).to_pylist()]
    parameters: dict[str, Any] = {}
    for place, kind in enumerate(sorted(pc.unique(interactions["type"]).to_pylist())):
        events = interactions.filter(pc.equal(interactions["type"], kind)).select(EVENT_COLUMNS)
        parameters[f"rows{place}"] = list({row[2]: row for row in lists_of_rows(events)}.values())
        type_ = schema.RELATIONSHIP_OF[InteractionType(kind)].type
        text += (
            f"CALL (j) {{ UNWIND $rows{place} AS row MATCH (p:Product {{id: row[1]}}) "
            f"USING INDEX SEEK p:Product(id) OPTIONAL {known_event(type_)} WITH row, p WHERE old IS NULL "
            f"MERGE (u:User {{id: row[0]}}) CREATE (u)-[:{type_} "
            "{event_id: row[2], at: row[3], value: row[4], position: row[5], commit: $commit}]->(p) } "
        )
    return text, products, parameters


def append_searches(graph: "Graph", searches: Sequence[tuple[str, str, str, int]]) -> None:
    """Add searches, each an event id, a user id, what was typed and when (ms since the epoch).

    One that is there already stays as it is; one from before its user's erasure is left out.
    """

    def work(commit: Commit) -> None:
        erased = erased_users(commit, {user_id for _, user_id, _, _ in searches})
        commit.run(
            "UNWIND $rows AS row OPTIONAL MATCH ()-[old:SEARCHED {event_id: row[0]}]->() WITH row, old "
            "WHERE old IS NULL MERGE (u:User {id: row[1]}) MERGE (q:Query {text: row[2]}) "
            "CREATE (u)-[:SEARCHED {event_id: row[0], at: row[3], commit: $commit}]->(q)",
            [list(each) for each in searches if each[3] > erased.get(each[1], -1)],
            commit=commit.number,
        )

    graph.commit(work)


def journal_offset(graph: "Graph", journal: str) -> int:
    """Return the offset that the graph remembers for a journal, 0 if it has none."""
    rows = graph.read("MATCH (j:Journal {name: $journal}) RETURN coalesce(j.offset, 0)", journal=journal)
    return int(rows[0][0]) if rows else 0
