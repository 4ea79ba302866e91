"""Events that are in the graph already, found by their ids; each type of relationship has an index of its own."""

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.casting import plain
from kg.quality.identity import CONTENT, event_ids

_IDS_AT_ONCE = 20_000


class _Readable(Protocol):
    def read(self, cypher: str, **parameters: Any) -> list[list[Any]]: ...


def known_event(type_: str) -> str:
    """Return the Cypher text that finds the event `row[2]`.

    The hint matters: planned while the type has few relationships, it would scan them all for each row, and the plan is
    kept while they grow.
    """
    return f"MATCH ()-[old:{type_} {{event_id: row[2]}}]->() USING INDEX SEEK old:{type_}(event_id)"


def without_known_elsewhere(graph: _Readable, interactions: pa.Table, there: Sequence[schema.Relationship]) -> pa.Table:
    """Return interactions without those whose id is in the graph as an event of another type.

    Ids that are made of a row's content are not looked up: the type is a part of it.

    Args:
        graph: where events are.
        interactions: `kg.tables.INTERACTIONS`, no id twice.
        there: the types of which the graph has events.
    """
    if not there or not len(interactions):
        return interactions
    made = event_ids({name: plain(interactions[name]) for name in CONTENT})
    stated = interactions.filter(pc.not_equal(plain(interactions["event_id"]), made)).select(["event_id", "type"])
    found: list[str] = []
    for each in there:
        query = (
            f"UNWIND $rows AS id MATCH ()-[r:{each.type} {{event_id: id}}]->() "
            f"USING INDEX SEEK r:{each.type}(event_id) RETURN id"
        )
        ids = stated.filter(pc.not_equal(stated["type"], str(each.interaction)))["event_id"]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            rows = graph.read(query, rows=ids.slice(start, _IDS_AT_ONCE).to_pylist())
            found += [event_id for (event_id,) in rows]
    return interactions.filter(pc.invert(pc.is_in(interactions["event_id"], pa.array(found, pa.string()))))
