"""The graph as canonical tables again: `export(load(tables))` has the rows of `tables`.

Read in blocks of nodes, each block's rows gathered by `collect()` into one record: several times faster than a record
per row. Relationships are read as `kg.outgoing` says.

What a person added to the graph beside the schema is no part of it: relationships to nodes of other labels, of types
that are no fact's name, or without what every event or fact has.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.outgoing import Columns, Outgoing, by_key
from kg.progress import SILENT, Progress
from kg.tables import FACTS, INTERACTIONS, PRODUCTS, USERS, Tables
from kg.whole_rows import whole_rows

if TYPE_CHECKING:
    from kg.store import Graph

_NODES_AT_ONCE = 5_000
_KIND_OF_TYPE = {each.type: str(each.interaction) for each in schema.INTERACTIONS}


def export(graph: "Graph", as_of_ms: int | None, progress: Progress) -> Tables:
    """Return the graph as canonical tables, each sorted by its ids.

    Args:
        graph: an open graph.
        as_of_ms: leave out interactions later than this.
        progress: advances by one for each row.
    """
    interactions = export_interactions(graph, as_of_ms, progress)
    products = _products(graph, progress)
    # Those with products that were taken out of the catalogue stay in the graph's past.
    known = pc.is_in(interactions["product_id"], value_set=products["product_id"].combine_chunks())
    return Tables(
        interactions=interactions.filter(known),
        products=products,
        facts=_facts(graph, progress),
        users=_users(graph, progress),
    )


def row_count(graph: "Graph") -> int:
    """Return at most how many rows an export will have, from Neo4j's count store: for its progress."""
    nodes = sum(int(graph.read(f"MATCH (n:{label}) RETURN count(n)")[0][0]) for label in ("Product", "User"))
    types = [each.type for each in schema.INTERACTIONS] + fact_relations(graph)
    return nodes + sum(int(graph.read(f"MATCH ()-[r:{type_}]->() RETURN count(r)")[0][0]) for type_ in types)


def _keys(graph: "Graph", node: schema.Node) -> list[list[str]]:
    """Return the key of every node of a label, sorted."""
    cypher = f"MATCH (n:{node.label}) RETURN {', '.join(f'n.{name}' for name in node.key)}"
    return sorted(whole_rows(lambda: graph.read(cypher), range(len(node.key))))


def _blocks(keys: list[list[str]], size: int) -> Iterator[list[list[str]]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _products(graph: "Graph", progress: Progress) -> pa.Table:
    columns = ["id", *PRODUCTS.names[1:-1], "attribute_keys", "attribute_values"]
    return _nodes(graph, schema.PRODUCT, PRODUCTS, columns, progress)


def _users(graph: "Graph", progress: Progress) -> pa.Table:
    return _nodes(graph, schema.USER, USERS, ["id", "attribute_keys", "attribute_values"], progress)


def _nodes(
    graph: "Graph", node: schema.Node, table_schema: pa.Schema, columns: Sequence[str], progress: Progress
) -> pa.Table:
    """Read the nodes that a table declared; a node that only events or facts named has no attribute lists."""
    values = ", ".join(f"n.{name}" for name in columns)
    pattern, hint = by_key("n", node)
    cypher = f"UNWIND $keys AS key MATCH {pattern} {hint} WHERE n.attribute_keys IS NOT NULL RETURN collect([{values}])"
    optional = {field.name for field in table_schema if field.nullable}
    always = [place for place, name in enumerate(columns) if name not in optional]
    attributes_at = (len(columns) - 2, len(columns) - 1)
    pieces = [table_schema.empty_table()]
    for block in _blocks(_keys(graph, node), _NODES_AT_ONCE):
        rows = whole_rows(lambda block=block: graph.read(cypher, keys=block)[0][0], always, alike=attributes_at)  # type: ignore[misc]  # a default binds it
        plain = [row[:-2] for row in rows]
        arrays = (
            [
                pa.array(values, field.type)
                for values, field in zip(zip(*plain, strict=True), list(table_schema)[:-1], strict=True)
            ]
            if plain
            else []
        )
        if not arrays:
            continue
        attributes = [list(zip(row[-2], row[-1], strict=True)) for row in rows]
        pieces.append(
            pa.Table.from_arrays([*arrays, pa.array(attributes, table_schema.field(-1).type)], schema=table_schema)
        )
        progress.advance(len(rows), f"{node.label.lower()}s")
    return pa.concat_tables(pieces).combine_chunks()


def export_interactions(graph: "Graph", as_of_ms: int | None = None, progress: Progress = SILENT) -> pa.Table:
    """Return the interactions, by user; leave out those later than `as_of_ms`."""
    counts = {
        each.type: int(graph.read(f"MATCH ()-[r:{each.type}]->() RETURN count(r)")[0][0])
        for each in schema.INTERACTIONS
    }
    types = [name for name, count in counts.items() if count]
    until = "true" if as_of_ms is None else "r.at <= $as_of"
    events = Outgoing(
        schema.USER,
        types,
        condition=f"{_may_be('t', schema.PRODUCT.label)} AND {until}",
        # collect() leaves nulls out: NaN stands for an absent value on the way
        values=("key[0]", "t.id", "type(r)", "r.at", "coalesce(r.value, $nan)", "r.position", "r.event_id"),
        whole=_WHOLE_EVENT,
        table=_events_table,
        parameters={"as_of": as_of_ms, "nan": float("nan")},
    )
    pieces = [INTERACTIONS.empty_table()]
    for piece in events.read(graph):
        pieces.append(piece)
        progress.advance(len(piece), "interactions")
    return pa.concat_tables(pieces).combine_chunks()


_WHOLE_EVENT = (
    "t:Product AND t.id IS NOT NULL AND r.at IS NOT NULL AND r.position IS NOT NULL AND r.event_id IS NOT NULL"
)


def _events_table(columns: Columns) -> pa.Table:
    user, product, type_, at_ms, value, position, event_id = columns
    kinds = [_KIND_OF_TYPE[name] for name in type_]
    values = pa.array(value, pa.float32(), from_pandas=True)
    return pa.table(
        dict(zip(INTERACTIONS.names, [user, product, kinds, at_ms, values, position, event_id], strict=True)),
        schema=INTERACTIONS,
    )


_END_LABELS = "|".join(node.label for node in (*schema.NODE_OF_KIND.values(), schema.ENTITY))


def _kind_of(name: str) -> str:
    cases = " ".join(f"WHEN {name}:{node.label} THEN '{kind}'" for kind, node in schema.NODE_OF_KIND.items())
    return f"CASE {cases} WHEN {name}:{schema.ENTITY.label} THEN {name}.kind END"


def _id_of(name: str) -> str:
    nodes = (*schema.NODE_OF_KIND.values(), schema.ENTITY)
    cases = " ".join(f"WHEN {name}:{node.label} THEN {name}.{node.key[0]}" for node in nodes)
    return f"CASE {cases} END"


def _may_be(name: str, labels: str) -> str:
    """Return the Cypher condition that a node has one of some labels; one that is just removed has none any more."""
    return f"({name}:{labels} OR size(labels({name})) = 0)"


def _may_end_a_fact(name: str) -> str:
    """Return the Cypher condition that a node has a label which facts know."""
    return _may_be(name, _END_LABELS)


def fact_relations(graph: "Graph") -> list[str]:
    """Return the relationship types that may hold facts, sorted; each is a name (`schema.relation_name`)."""
    types = [row[0] for row in graph.read("CALL db.relationshipTypes() YIELD relationshipType RETURN relationshipType")]
    return sorted(filter(schema.is_relation_name, types))


def facts_of(graph: "Graph", product_ids: Sequence[str], *, outside: bool = False) -> pa.Table:
    """Return the facts that some products are an end of, `kg.tables.FACTS`, each once; not those about users.

    Args:
        graph: an open graph.
        product_ids: the products.
        outside: they are not in the catalogue, but facts name them.
    """
    relations = fact_relations(graph) if product_ids else []
    if not relations:
        return FACTS.empty_table()
    types = "|".join(relations)
    pattern, hint = by_key("p", schema.ENTITY if outside else schema.PRODUCT)
    query = (
        f"UNWIND $keys AS key MATCH {pattern}-[r:{types}]-() {hint} "
        "WHERE coalesce(r.from_catalogue, false) = false "
        "WITH DISTINCT r WITH r, startNode(r) AS h, endNode(r) AS t "
        f"WHERE {_may_end_a_fact('h')} AND {_may_end_a_fact('t')} "
        f"AND NOT h:{schema.USER.label} AND NOT t:{schema.USER.label} "
        f"RETURN {_id_of('h')}, type(r), {_id_of('t')}, {_kind_of('h')}, {_kind_of('t')}"
    )
    keys = [[product_id, schema.PRODUCT.kind] for product_id in product_ids]  # a product's own key is the id alone
    rows = whole_rows(lambda: graph.read(query, keys=keys), range(len(FACTS.names)))
    return pa.Table.from_pylist([dict(zip(FACTS.names, row, strict=True)) for row in rows], FACTS)


def _facts(graph: "Graph", progress: Progress) -> pa.Table:
    relations = fact_relations(graph)
    pieces = [FACTS.empty_table()]
    for node in (*schema.NODE_OF_KIND.values(), schema.ENTITY):
        facts = Outgoing(
            node,
            relations,
            condition=f"coalesce(r.from_catalogue, false) = false AND {_may_end_a_fact('t')}",
            values=("key[0]", "type(r)", _id_of("t"), _kind_of("h"), _kind_of("t")),
            whole=f"{_id_of('t')} IS NOT NULL AND {_kind_of('t')} IS NOT NULL",
            table=_facts_table,
        )
        for piece in facts.read(graph):
            pieces.append(piece)
            progress.advance(len(piece), "facts")
    return pa.concat_tables(pieces).combine_chunks()


def _facts_table(columns: Columns) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=FACTS)
