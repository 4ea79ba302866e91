"""Canonical tables to a snapshot: sort, index, hash.

The same tables in any row order give the same arrays and the same content hash.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.snapshot import Edges, Histories, Snapshot
from kg.tables import CODES, Tables
from kg.vocabulary import MISSING, Vocabulary

CATEGORY_SEPARATOR = " > "
"""Joins a category path to the id of its node; a separator inside a name is the source's to avoid."""

PRODUCT = "product"
BRAND = "brand"
CATEGORY = "category"
ATTRIBUTE = "attribute"

_DESCRIPTION_CHARS = 300


def freeze(tables: Tables, *, as_of_ms: int | None = None) -> Snapshot:
    """Build a snapshot of clean tables.

    Args:
        tables: checked tables: every interaction's product is in `products`, event ids are unique.
        as_of_ms: leave out every interaction later than this; by default the time of the last one.

    Returns:
        The snapshot. Products and users without interactions are in it; a fact's end that is of kind `product` but not
        in the catalogue becomes a node of kind `product` outside the product index space.
    """
    interactions = tables.interactions
    if as_of_ms is None:
        as_of_ms = pc.max(interactions["at_ms"]).as_py() or 0
    interactions = interactions.filter(pc.less_equal(interactions["at_ms"], as_of_ms))

    products_table = tables.products.sort_by("product_id").combine_chunks()
    products = Vocabulary(_column(products_table, "product_id"))
    users = Vocabulary(_sorted_union(interactions["user_id"], tables.users["user_id"]))
    histories = _histories(interactions, users, products)

    edges = _product_edges(products_table) + _fact_edges(tables.facts)
    ends = {end for _, head, tail in edges for end in (head, tail)}
    outside = sorted(end for end in ends if not (end[0] == PRODUCT and end[1] in products))
    index = {end: len(products) + row for row, end in enumerate(outside)}
    facts = _facts(edges, products, index)
    nodes = pa.table(
        {
            "kind": pa.array([kind for kind, _ in outside], pa.string()),
            "id": pa.array([node_id for _, node_id in outside], pa.string()),
            "name": pa.array([_name(kind, node_id) for kind, node_id in outside], pa.string()),
        }
    )
    catalogue = pa.table(
        {
            "title": _column(products_table, "title"),
            "brand": _column(products_table, "brand"),
            "category": _column(products_table, "category"),
            "price": _column(products_table, "price"),
            "text": pa.array([product_text(row) for row in products_table.to_pylist()], pa.string()),
        }
    )
    return Snapshot(
        users=users,
        products=products,
        catalogue=catalogue,
        nodes=nodes,
        histories=histories,
        facts=facts,
        as_of_ms=as_of_ms,
        content_hash=_content_hash(users, products, catalogue, nodes, histories, facts),
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


_End = tuple[str, str]  # (kind, id)


def _product_edges(products: pa.Table) -> list[tuple[str, _End, _End]]:
    """Return the edges that product columns declare: brand, category path, attributes."""
    edges: list[tuple[str, _End, _End]] = []
    for row in products.select(["product_id", "brand", "category", "attributes"]).to_pylist():
        product = (PRODUCT, row["product_id"])
        if row["brand"]:
            edges.append(("HAS_BRAND", product, (BRAND, row["brand"])))
        path = row["category"]
        if path:
            edges.append(("IN_CATEGORY", product, (CATEGORY, CATEGORY_SEPARATOR.join(path))))
        for depth in range(len(path) - 1, 0, -1):
            child, parent = (CATEGORY_SEPARATOR.join(path[:cut]) for cut in (depth + 1, depth))
            edges.append(("CHILD_OF", (CATEGORY, child), (CATEGORY, parent)))
        edges += [("HAS_ATTRIBUTE", product, (ATTRIBUTE, f"{key}={value}")) for key, value in row["attributes"]]
    return edges


def _fact_edges(facts: pa.Table) -> list[tuple[str, _End, _End]]:
    columns = (facts[name].to_pylist() for name in ("relation", "head_kind", "head", "tail_kind", "tail"))
    return [
        (relation, (kind, head), (tail_kind, tail))
        for relation, kind, head, tail_kind, tail in zip(*columns, strict=True)
    ]


def _facts(edges: list[tuple[str, _End, _End]], products: Vocabulary, outside: dict[_End, int]) -> dict[str, Edges]:
    pairs: dict[str, list[tuple[int, int]]] = {}
    for relation, head, tail in edges:
        pair = tuple(outside[end] if end in outside else products.index(end[1]) for end in (head, tail))
        pairs.setdefault(relation, []).append((pair[0], pair[1]))
    unique = {relation: np.unique(np.array(rows, np.int32), axis=0) for relation, rows in sorted(pairs.items())}
    return {relation: Edges(rows[:, 0].copy(), rows[:, 1].copy()) for relation, rows in unique.items()}


def _name(kind: str, node_id: str) -> str:
    """Return what a person calls a node: a category by its leaf, anything else by its id."""
    return node_id.rsplit(CATEGORY_SEPARATOR, 1)[-1] if kind == CATEGORY else node_id


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
