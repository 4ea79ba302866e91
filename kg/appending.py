"""A server's journal into the graph: events and the journal's offset in one transaction, so each event once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.commits import ChangeKind, Commit
from kg.loading import BARE_PRODUCTS, EVENT_COLUMNS, known_event, lists_of_rows
from kg.tables import InteractionType

if TYPE_CHECKING:
    from kg.store import Graph


def append_events(graph: "Graph", interactions: pa.Table, journal: str, offset: int) -> int:
    """Add a journal's events and remember its offset, in one transaction: applied once, not twice.

    Args:
        graph: an open graph.
        interactions: events, `kg.tables.INTERACTIONS`; users that are new are made, and so are products, bare: a graph
            that is built anew while a server runs loses no event, and the next load fills them.
        journal: the journal's name.
        offset: the offset after the last of these events; an offset that the graph has passed already changes nothing.

    Returns:
        How many events were new.
    """
    kinds = sorted(pc.unique(interactions["type"]).to_pylist())
    text = (
        "MERGE (j:Journal {name: $journal}) WITH j WHERE coalesce(j.offset, -1) < $offset "
        f"SET j.offset = $offset WITH j CALL (j) {{ {BARE_PRODUCTS} }} "
    )
    products = [{"product_id": product_id} for product_id in pc.unique(interactions["product_id"]).to_pylist()]
    parameters: dict[str, Any] = {"journal": journal, "offset": offset}
    for place, kind in enumerate(kinds):
        events = interactions.filter(pc.equal(interactions["type"], kind)).select(EVENT_COLUMNS)
        parameters[f"rows{place}"] = list({row[2]: row for row in lists_of_rows(events)}.values())
        type_ = schema.RELATIONSHIP_OF[InteractionType(kind)].type
        text += (
            f"CALL (j) {{ UNWIND $rows{place} AS row MATCH (p:Product {{id: row[1]}}) "
            f"USING INDEX SEEK p:Product(id) OPTIONAL {known_event(type_)} WITH row, p WHERE old IS NULL "
            f"MERGE (u:User {{id: row[0]}}) CREATE (u)-[:{type_} "
            "{event_id: row[2], at: row[3], value: row[4], position: row[5], commit: $commit}]->(p) } "
        )

    def work(commit: Commit) -> int:
        result = commit.run(text, products, commit=commit.number, **parameters)
        created = result.changes.get("relationships_created", 0)
        if created:
            commit.note(ChangeKind.EVENTS, journal)
        return created

    return graph.commit(work)


def append_searches(graph: "Graph", searches: Sequence[tuple[str, str, str, int]]) -> None:
    """Add searches, each an event id, a user id, what was typed and when; one that is there already stays as it is."""

    def work(commit: Commit) -> None:
        commit.run(
            "UNWIND $rows AS row OPTIONAL MATCH ()-[old:SEARCHED {event_id: row[0]}]->() WITH row, old "
            "WHERE old IS NULL MERGE (u:User {id: row[1]}) MERGE (q:Query {text: row[2]}) "
            "CREATE (u)-[:SEARCHED {event_id: row[0], at: row[3], commit: $commit}]->(q)",
            [list(each) for each in searches],
            commit=commit.number,
        )

    graph.commit(work)


def journal_offset(graph: "Graph", journal: str) -> int:
    """Return the offset that the graph remembers for a journal, 0 if it has none."""
    rows = graph.read("MATCH (j:Journal {name: $journal}) RETURN j.offset", journal=journal)
    return int(rows[0][0]) if rows else 0
