"""Canonical tables to a snapshot: sort, index, hash.

The same tables in any row order give the same arrays and the same content hash.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.edges import ATTRIBUTE, PRODUCT, EdgeList, edges_of, flat, kinds_and_ids, names_of, node_keys
from kg.snapshot import Edges, Histories, Snapshot
from kg.tables import CATEGORY_SEPARATOR, CODES, Tables
from kg.taking import in_slices, taken
from kg.vocabulary import MISSING, Vocabulary

__all__ = ["ATTRIBUTE", "CATEGORY_SEPARATOR", "PRODUCT", "freeze", "product_text"]

_DESCRIPTION_CHARS = 300


def freeze(tables: Tables, *, as_of_ms: int | None = None, commit: int = 0) -> Snapshot:
    """Build a snapshot of clean tables.

    Args:
        tables: checked tables: every interaction's product is in `products`, event ids are unique.
        as_of_ms: leave out every interaction later than this; the snapshot's own `as_of_ms` is the time of the last
            one that stays.
        commit: the graph's last commit before the tables were read; 0 where they come from elsewhere, or where
            `as_of_ms` leaves out what earlier commits wrote: a server then looks at every commit.

    Returns:
        The snapshot. Products and users without interactions are in it; a fact's end that is of kind `product` but not
        in the catalogue becomes a node of kind `product` outside the product index space.
    """
    interactions = tables.interactions
    if as_of_ms is not None:
        interactions = interactions.filter(pc.less_equal(interactions["at_ms"], as_of_ms))
    # The last interaction's time, so that the moment follows from the content, as the hash does.
    as_of_ms = pc.max(interactions["at_ms"]).as_py() or 0

    products_table = _by_id(tables.products)
    products = Vocabulary(_column(products_table, "product_id"))
    users = Vocabulary(_sorted_union(interactions["user_id"], tables.users["user_id"]))
    histories = _histories(interactions, users, products)

    edges = edges_of(products_table, tables.facts)
    of_products = node_keys(PRODUCT, products.array)
    ends = edges.ends.unique()
    outside = ends.filter(pc.invert(pc.is_in(ends, value_set=of_products)))
    outside = outside.take(pc.sort_indices(outside))
    facts = _facts(edges, pa.concat_arrays([of_products, outside]))
    kinds, ids = kinds_and_ids(outside)
    nodes = pa.table({"kind": kinds, "id": ids, "name": names_of(kinds, ids)})
    catalogue = catalogue_of(products_table)
    return Snapshot(
        users=users,
        products=products,
        catalogue=catalogue,
        nodes=nodes,
        histories=histories,
        facts=facts,
        as_of_ms=as_of_ms,
        content_hash=_content_hash(users, products, catalogue, nodes, histories, facts),
        commit=commit,
    )


def _by_id(products: pa.Table) -> pa.Table:
    """Return products in the order of their ids, with no more of their descriptions than a snapshot keeps."""
    place = products.schema.get_field_index("description")
    start = pc.utf8_slice_codeunits(products["description"], 0, _DESCRIPTION_CHARS)
    shortened = products.set_column(place, products.schema.field(place), start)
    return taken(shortened, pc.sort_indices(products["product_id"]).to_numpy())


def catalogue_of(products: pa.Table) -> pa.Table:
    """Return what a snapshot keeps of its products, in their order."""
    return pa.concat_tables([_catalogue_of(piece) for piece in in_slices(products)]).combine_chunks()


def _catalogue_of(products: pa.Table) -> pa.Table:
    return pa.table(
        {
            **{name: _column(products, name) for name in ("title", "brand", "category", "price")},
            "available": pc.fill_null(_column(products, "available"), True),
            "attributes": _column(products, "attributes"),
            "text": pa.array([product_text(row) for row in products.to_pylist()], pa.string()),
        }
    )


def product_text(product: dict[str, object]) -> str:
    """Return what a language model reads of a product: title, brand, category path, start of the description."""
    category = product.get("category") or []
    path = CATEGORY_SEPARATOR.join(category) if isinstance(category, list) else ""
    description = str(product.get("description") or "")[:_DESCRIPTION_CHARS]
    parts = [str(product.get("title") or ""), str(product.get("brand") or ""), path, description]
    return ". ".join(part.strip() for part in parts if part.strip())


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _sorted_union(*columns: pa.ChunkedArray) -> pa.Array:
    together = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    unique = together.unique()
    return unique.take(pc.sort_indices(unique))


def _histories(interactions: pa.Table, users: Vocabulary, products: Vocabulary) -> Histories:
    user_index = _indices(interactions["user_id"], users)
    at_ms = interactions["at_ms"].to_numpy()
    table = pa.table(
        {
            "user": user_index,
            "at_ms": at_ms,
            "position": interactions["position"],
            "event_id": interactions["event_id"],
        }
    )
    order = pc.sort_indices(table, [(name, "ascending") for name in table.column_names]).to_numpy()
    counts = np.bincount(user_index, minlength=len(users)) if len(user_index) else np.zeros(len(users), np.int64)
    codes = pa.array(list(CODES), pa.string())
    return Histories(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        product_index=_indices(interactions["product_id"], products)[order],
        type=pc.index_in(interactions["type"], codes).to_numpy().astype(np.int8)[order],
        at_ms=at_ms.astype(np.int64)[order],
        value=interactions["value"].to_numpy().astype(np.float32)[order],
    )


def _indices(column: pa.ChunkedArray, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    found: npt.NDArray[np.int32] = pc.fill_null(pc.index_in(column, vocabulary.array), MISSING).to_numpy()
    return found.astype(np.int32)


def _facts(edges: EdgeList, nodes: pa.Array) -> dict[str, Edges]:
    """Return the edges by relation as indices into `nodes`, sorted by head then tail, each once."""
    relations = flat(edges.relation.dictionary_encode())
    codes = relations.indices.to_numpy()
    head, tail = (pc.index_in(end, value_set=nodes).to_numpy().astype(np.int64) for end in (edges.head, edges.tail))
    facts: dict[str, Edges] = {}
    for relation, code in sorted((name, code) for code, name in enumerate(relations.dictionary.to_pylist())):
        pairs = np.unique(head[codes == code] * len(nodes) + tail[codes == code])
        facts[relation] = Edges((pairs // len(nodes)).astype(np.int32), (pairs % len(nodes)).astype(np.int32))
    return facts


def _content_hash(
    users: Vocabulary,
    products: Vocabulary,
    catalogue: pa.Table,
    nodes: pa.Table,
    histories: Histories,
    facts: dict[str, Edges],
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    tables = {"users": pa.table({"id": users.array}), "products": catalogue, "nodes": nodes}
    tables["products"] = catalogue.add_column(0, "id", products.array)
    for name, table in tables.items():
        digest.update(f"{name}:{len(table)}\n".encode())
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        digest.update(sink.getvalue())
    for name in Histories.__dataclass_fields__:
        digest.update(name.encode() + np.ascontiguousarray(getattr(histories, name)).tobytes())
    for relation, edges in facts.items():
        digest.update(f"{relation}:{len(edges)}\n".encode() + edges.head.tobytes() + edges.tail.tobytes())
    return digest.hexdigest()
