"""Canonical tables into the graph: in batches, each its own transaction, and idempotent.

The same tables twice leave the same graph, and so does a load that was killed and run again: nodes are merged on their
keys, events on their id, facts on their ends. A product or user that is given again takes the columns of its file.

A load tells no server. A product that it changes loses the time of its last online write, by which the next such write
knows that the servers may have another one (`kg.catalogue`).
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from kg import schema
from kg.batches import batches
from kg.erasure import erase_loaded, without_erased
from kg.errors import GraphKeyError
from kg.known_events import known_event, without_known_elsewhere
from kg.linking import link, node_pattern, relink
from kg.progress import Progress
from kg.tables import CATEGORY_SEPARATOR, InteractionType, Tables, said

if TYPE_CHECKING:
    from kg.store import Graph, Result

_KEYS_AT_ONCE = 20_000
_PROMOTED_AT_ONCE = 1_000  # each with all its facts
_TIMES = 5


@dataclass(frozen=True)
class LoadReport:
    """What a load did: rows given per table, what it created, and what it left out.

    Left out are events whose product is not in the catalogue or whose id the graph has as an event of another type, and
    rows about users from before their erasure.
    """

    rows: dict[str, int]
    nodes_created: int
    relationships_created: int
    unknown_products: int
    erased: int = 0
    of_another_type: int = 0


class Store(Protocol):
    """What loading needs of the graph: `kg.store.Graph` has it, and a single transaction may have it, too."""

    def read(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        """Run a reading query; return its rows."""

    def write(self, cypher: str, rows: Sequence[Any] | None = None, **parameters: Any) -> "Result":
        """Run a writing query."""


class Loader:
    """One load: the graph, its progress, and what was created so far."""

    def __init__(self, graph: Store, progress: Progress) -> None:
        self.graph = graph
        self.progress = progress
        self.nodes_created = 0
        self.relationships_created = 0

    def write(self, cypher: str, rows: Sequence[Any]) -> list[list[Any]]:
        """Run a writing query; return its rows."""
        result = self.graph.write(cypher, rows)
        self.nodes_created += result.changes.get("nodes_created", 0)
        self.relationships_created += result.changes.get("relationships_created", 0)
        return result.rows

    def write_all(self, cypher: str, rows: Sequence[Any]) -> None:
        """Run a writing query on many rows, some at a time."""
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            self.write(cypher, rows[start : start + _KEYS_AT_ONCE])

    def is_empty(self, pattern: str) -> bool:
        """Return whether nothing matches a pattern that binds `x`; answered from Neo4j's count store."""
        return int(self.graph.read(f"MATCH {pattern} RETURN count(x)")[0][0]) == 0


def load(graph: "Graph", tables: Tables, progress: Progress) -> LoadReport:
    """Put canonical tables into the graph; what they say of users before their erasure stays out.

    Args:
        graph: an open graph whose constraints exist (`Graph.ensure_schema`).
        tables: checked tables (`kg.quality`).
        progress: advances by one for each row of each table.

    Raises:
        DataError: a fact's relation can't be a relationship type.
        GraphError: the store failed; what was loaded so far stays, and a second run completes it.
    """
    for relation in pc.unique(tables.facts["relation"]).to_pylist():
        schema.relation_name(relation)
    loader = Loader(graph, progress)
    rows = {name: len(table) for name, table in tables}
    before = graph.last_commit
    tables, erased = without_erased(graph, tables)
    progress.advance(erased)
    _load_products(loader, tables.products, tables.stated_of("products"))
    # Each step looks anew for who was erased meanwhile, so that a load that is killed leaves nobody of them either.
    _load_users(loader, without_erased(graph, tables)[0].users, tables.stated_of("users"))
    unknown, of_another_type = _load_interactions(
        loader, without_erased(graph, tables)[0].interactions, tables.stated_of("interactions")
    )
    _load_facts(loader, without_erased(graph, tables)[0].facts)
    erase_loaded(graph, tables, before)
    return LoadReport(rows, loader.nodes_created, loader.relationships_created, unknown, erased, of_another_type)


def _merge(node: schema.Node) -> str:
    """Return the Cypher text that makes the nodes which are not there; a row is a list: the key, then the rest."""
    key = ", ".join(f"{name}: row[{place}]" for place, name in enumerate(node.key))
    rest = [each.name for each in node.properties if each.name not in node.key]
    text = f"UNWIND $rows AS row MERGE (n:{node.label} {{{key}}})"
    if rest:
        settings = ", ".join(f"n.{name} = row[{place}]" for place, name in enumerate(rest, len(node.key)))
        text += f" ON CREATE SET {settings}"
    return text


_PRODUCTS = """
UNWIND $rows AS row MERGE (p:Product {id: row[0]})
SET p.updated_at = CASE WHEN all(key IN keys(row[1])
                                 WHERE p[key] = row[1][key] OR coalesce(p[key], row[1][key]) IS NULL)
                   THEN p.updated_at END
SET p += row[1], p.deleted_at = null
SET p.title = coalesce(p.title, ''), p.description = coalesce(p.description, ''), p.brand = coalesce(p.brand, ''),
    p.category = coalesce(p.category, []), p.attribute_keys = coalesce(p.attribute_keys, []),
    p.attribute_values = coalesce(p.attribute_values, [])
"""
BARE_PRODUCTS = """
UNWIND $rows AS row MERGE (p:Product {id: row.product_id})
ON CREATE SET p.title = '', p.description = '', p.brand = '', p.category = [], p.attribute_keys = [],
              p.attribute_values = []
"""
_USERS = """
UNWIND $rows AS row MERGE (u:User {id: row[0]}) SET u += row[1]
SET u.attribute_keys = coalesce(u.attribute_keys, []), u.attribute_values = coalesce(u.attribute_values, [])
"""


def _load_products(loader: Loader, products: pa.Table, stated: Collection[str]) -> None:
    for batch in batches(products):
        rows = batch.to_pylist()
        # With nothing but an id, because interactions name them: that must not blank what is known of them.
        loader.write(BARE_PRODUCTS, [row for row in rows if len(said(row, ())) == 1])
        write_products(loader, [said(row, stated) for row in rows if len(said(row, ())) > 1])
        loader.progress.advance(len(batch), "products")
    if len(products):
        promote_entities(loader)


def write_products(loader: Loader, rows: list[dict[str, Any]]) -> None:
    """Write a batch of products, rows of `kg.tables.PRODUCTS`, with their brands, categories and attributes.

    Args:
        loader: writes.
        rows: the products; those that are there take the columns that a row has, and keep the others.
    """
    loader.write(_PRODUCTS, [[row["product_id"], _properties(row)] for row in rows])
    brands = {row["product_id"]: [row["brand"]] if row["brand"] else [] for row in rows if "brand" in row}
    placed = [row for row in rows if "category" in row]
    leaves = {
        row["product_id"]: [CATEGORY_SEPARATOR.join(row["category"])] if row["category"] else [] for row in placed
    }
    loader.write_all(_merge(schema.BRAND), sorted({(name,) for names in brands.values() for name in names}))
    _load_categories(loader, placed)
    loader.write_all(relink(schema.HAS_BRAND, schema.PRODUCT, schema.BRAND), list(brands.items()))
    loader.write_all(relink(schema.IN_CATEGORY, schema.PRODUCT, schema.CATEGORY), list(leaves.items()))
    _link_attributes(loader, schema.PRODUCT, rows)


def _properties(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a product or user, its id apart, as properties of its node."""
    given = {name: value for name, value in row.items() if name not in ("product_id", "user_id", "attributes")}
    pairs = row.get("attributes")
    if pairs is None:
        return given
    return given | {"attribute_keys": [key for key, _ in pairs], "attribute_values": [value for _, value in pairs]}


def _load_categories(loader: Loader, products: list[dict[str, Any]]) -> None:
    paths = {tuple(row["category"][:depth]) for row in products for depth in range(1, len(row["category"]) + 1)}
    _merge_categories(loader, (CATEGORY_SEPARATOR.join(path) for path in paths))
    pairs = sorted(
        (CATEGORY_SEPARATOR.join(path), CATEGORY_SEPARATOR.join(path[:-1])) for path in paths if len(path) > 1
    )
    loader.write_all(link(schema.CHILD_OF, schema.CATEGORY, schema.CATEGORY), [list(pair) for pair in pairs])


def _merge_categories(loader: Loader, paths: Iterable[str]) -> None:
    names = {path: path.split(CATEGORY_SEPARATOR) for path in paths}
    rows = [[path, parts[-1], len(parts)] for path, parts in sorted(names.items())]
    loader.write_all(_merge(schema.CATEGORY), rows)


def _merge_attributes(loader: Loader, ids: Iterable[str]) -> None:
    loader.write_all(_merge(schema.ATTRIBUTE), [[each, *each.partition("=")[::2]] for each in ids])


def _link_attributes(loader: Loader, node: schema.Node, rows: list[dict[str, Any]]) -> None:
    key = "product_id" if node is schema.PRODUCT else "user_id"
    links = {
        row[key]: list(dict.fromkeys(f"{name}={value}" for name, value in row["attributes"]))
        for row in rows
        if "attributes" in row
    }
    piece: list[list[Any]] = []
    size = 0
    for owner, targets in links.items():
        piece.append([owner, targets])
        size += len(targets)
        if size >= _KEYS_AT_ONCE:
            _relink_attributes(loader, node, piece)
            piece, size = [], 0
    if piece:
        _relink_attributes(loader, node, piece)


def _relink_attributes(loader: Loader, node: schema.Node, rows: list[list[Any]]) -> None:
    _merge_attributes(loader, sorted({target for _, targets in rows for target in targets}))
    loader.write(relink(schema.HAS_ATTRIBUTE, node, schema.ATTRIBUTE), rows)


def promote_entities(loader: Loader, product_ids: Sequence[str] | None = None) -> None:
    """Give the facts of ids that were outside the catalogue to the products that they now are.

    Args:
        loader: writes.
        product_ids: products that may be among them; None: any.
    """
    if loader.is_empty("(x:Entity)"):
        return
    if product_ids is None:
        both = "MATCH (e:Entity {kind: 'product'}) MATCH (p:Product {id: e.id}) RETURN e.id"
        product_ids = [row[0] for row in loader.graph.read(both)]
    for start in range(0, len(product_ids), _PROMOTED_AT_ONCE):
        _promote(loader, product_ids[start : start + _PROMOTED_AT_ONCE])


def _promote(loader: Loader, product_ids: Sequence[str]) -> None:
    """Give the facts of some entities to the products of the same ids; where a part of it is done, the rest is."""
    ids = "UNWIND $rows AS id MATCH (e:Entity {id: id, kind: 'product'}) MATCH (p:Product {id: id})"
    rows = list(product_ids)
    if not loader.graph.read(f"{ids} RETURN 1 LIMIT 1", rows=rows):
        return
    for (relation,) in loader.graph.read(f"{ids} MATCH (e)-[r]-() RETURN DISTINCT type(r)", rows=rows):
        # Beside a link of the catalogue, a fact that says the same stands by itself.
        name = schema.quoted(relation) + _told(relation)  # also one of the shop's own
        for pattern, moved in (("(e)-[r:{}]->(o)", "(p)-[n:{}]->(o)"), ("(o)-[r:{}]->(e)", "(o)-[n:{}]->(p)")):
            loader.graph.write(
                f"{ids} MATCH {pattern.format(schema.quoted(relation))} "
                f"MERGE {moved.format(name)} SET n += properties(r) DELETE r",
                rows,
            )
    loader.graph.write(f"{ids} DETACH DELETE e", rows)


def _load_users(loader: Loader, users: pa.Table, stated: Collection[str]) -> None:
    for batch in batches(users):
        rows = [said(row, stated) for row in batch.to_pylist()]
        loader.write(_USERS, [[row["user_id"], _properties(row)] for row in rows])
        _link_attributes(loader, schema.USER, rows)
        loader.progress.advance(len(rows), "users")


EVENT_COLUMNS = ["user_id", "product_id", "event_id", "at_ms", "value", "position"]


def _create_events(relationship: schema.Relationship, *, fresh: bool) -> str:
    """Return the Cypher text that creates events; unless the type is fresh, those that are there are left out."""
    return (
        "UNWIND $rows AS row "
        + ("" if fresh else f"OPTIONAL {known_event(relationship.type)} WITH row WHERE old IS NULL ")
        + "MATCH (u:User {id: row[0]}) USING INDEX SEEK u:User(id) "
        "MATCH (p:Product {id: row[1]}) USING INDEX SEEK p:Product(id) "
        f"CREATE (u)-[:{relationship.type} {{event_id: row[2], at: row[3], value: row[4], position: row[5]}}]->(p)"
    )


def _load_interactions(loader: Loader, interactions: pa.Table, stated: Collection[str]) -> tuple[int, int]:
    """Load events; return how many are left out: their product is unknown, their id is one of another type."""
    loader.write_all("UNWIND $rows AS id MERGE (:User {id: id})", pc.unique(interactions["user_id"]).to_pylist())
    known = pa.array([row[0] for row in loader.graph.read("MATCH (p:Product) RETURN p.id")], pa.string())
    in_catalogue = pc.is_in(interactions["product_id"], known)
    of_products = interactions.filter(in_catalogue)
    kept = of_products
    if "event_id" in stated:
        there = [each for each in schema.INTERACTIONS if not loader.is_empty(f"()-[x:{each.type}]->()")]
        kept = without_known_elsewhere(loader.graph, of_products, there)
    loader.progress.advance(len(interactions) - len(kept))
    for kind in InteractionType:
        events = kept.filter(pc.equal(kept["type"], kind.value))
        if not len(events):
            continue
        relationship = schema.RELATIONSHIP_OF[kind]
        cypher = _create_events(relationship, fresh=loader.is_empty(f"()-[x:{relationship.type}]->()"))
        for batch in batches(events.select(EVENT_COLUMNS)):
            rows = lists_of_rows(batch)
            try:
                loader.write(cypher, rows)
            except GraphKeyError:  # another load, or a server, has written one of them since
                cypher = _create_events(relationship, fresh=False)
                _write_beside_others(loader, cypher, rows)
            loader.progress.advance(len(batch), relationship.type)
    return len(interactions) - len(of_products), len(of_products) - len(kept)


def _write_beside_others(loader: Loader, cypher: str, rows: Sequence[Any]) -> None:
    """Run a query that leaves out what is there, once more where another wrote it just between look and write."""
    for _ in range(_TIMES - 1):
        with suppress(GraphKeyError):
            loader.write(cypher, rows)
            return
    loader.write(cypher, rows)


def lists_of_rows(table: pa.Table) -> list[list[Any]]:
    """Return the rows of a table, each a list in column order."""
    return [list(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def write_facts(loader: Loader, facts: pa.Table, catalogue: set[str]) -> None:
    """State facts, `kg.tables.FACTS`; products among their ends that are not in `catalogue` are made entities."""
    _merge_ends(loader, facts, catalogue)
    for relation in sorted(pc.unique(facts["relation"]).to_pylist()):
        of_relation = facts.filter(pc.equal(facts["relation"], relation)).select(
            ["head", "tail", "head_kind", "tail_kind"]
        )
        for batch in batches(of_relation):
            groups: dict[tuple[str, str], list[list[str]]] = {}
            for row in lists_of_rows(batch):
                ends = _end(row[2], row[0], catalogue).label, _end(row[3], row[1], catalogue).label
                groups.setdefault(ends, []).append(row)
            for (start, end), rows in groups.items():
                loader.write(_state(schema.relation_name(relation), start, end), rows)
            loader.progress.advance(len(batch), relation)


def _end(kind: str, end: str, catalogue: set[str]) -> schema.Node:
    """Return what kind of node a fact's end is; a product outside the catalogue is an Entity."""
    node = schema.NODE_OF_KIND.get(kind, schema.ENTITY)
    return schema.ENTITY if node is schema.PRODUCT and end not in catalogue else node


def _load_facts(loader: Loader, facts: pa.Table) -> None:
    if not len(facts):
        return
    catalogue = {row[0] for row in loader.graph.read("MATCH (p:Product) RETURN p.id")}
    write_facts(loader, facts, catalogue)


def _merge_ends(loader: Loader, facts: pa.Table, catalogue: set[str]) -> None:
    """Make the nodes that facts name and the other tables did not."""
    ends: dict[str, set[tuple[str, str]]] = {}
    for side in ("head", "tail"):
        pairs = facts.select([side, f"{side}_kind"]).group_by([side, f"{side}_kind"]).aggregate([])
        for end, kind in lists_of_rows(pairs):
            ends.setdefault(_end(kind, end, catalogue).label, set()).add((end, kind))
    for label, found in sorted(ends.items()):
        ids = [end for end, _ in sorted(found)]
        if label == schema.CATEGORY.label:
            _merge_categories(loader, ids)
        elif label == schema.ATTRIBUTE.label:
            _merge_attributes(loader, ids)
        elif label == schema.ENTITY.label:
            loader.write_all(_merge(schema.ENTITY), [list(pair) for pair in sorted(found)])
        elif label != schema.PRODUCT.label:
            node = next(node for node in schema.NODES if node.label == label)
            loader.write_all(f"UNWIND $rows AS id MERGE (:{label} {{{node.key[0]}: id}})", ids)


def _state(relation: str, start: str, end: str) -> str:
    """Return the Cypher text that states facts; a row is head, tail, head kind, tail kind."""
    return (
        f"UNWIND $rows AS row MATCH {node_pattern('a', start, 0)} MATCH {node_pattern('b', end, 1)} "
        f"MERGE (a)-[:{relation}{_told(relation)}]->(b)"
    )


def _told(relation: str) -> str:
    """Return the properties that tell a fact from a link of the catalogue, where the relation may be either."""
    return " {from_catalogue: false}" if relation in {each.type for each in schema.CATALOGUE} else ""
