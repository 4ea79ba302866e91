"""Edges as Arrow columns, from the facts and from what product columns declare; nodes are keys of kind and id."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.schema import USER
from kg.tables import CATEGORY_SEPARATOR
from kg.taking import in_slices

PRODUCT = "product"
BRAND = "brand"
CATEGORY = "category"
ATTRIBUTE = "attribute"

_SEPARATOR = "\x1f"  # below every letter of a kind, so that keys sort as (kind, id) does


@dataclass(frozen=True)
class EdgeList:
    """Edges in any order, with repeats: `relation [E]`, and the node keys `head [E]` and `tail [E]`, strings.

    In chunks, as the keys of many edges may have more text than one array holds.
    """

    relation: pa.ChunkedArray
    head: pa.ChunkedArray
    tail: pa.ChunkedArray

    @property
    def ends(self) -> pa.ChunkedArray:
        """All heads, then all tails."""
        return _chunked([*self.head.chunks, *self.tail.chunks])


_Edges = tuple[pa.Array, pa.Array, pa.Array]
"""Relation, head and tail of some edges."""


def edges_of(products: pa.Table, facts: pa.Table) -> EdgeList:
    """Return the edges of canonical tables, but for facts about users.

    A snapshot knows users by their histories alone: as a node that others reach, a user would stand in models and in
    other people's reasons, where no erasure finds them.
    """
    of_users = pc.or_(pc.equal(facts["head_kind"], USER.kind), pc.equal(facts["tail_kind"], USER.kind))
    facts = facts.filter(pc.invert(of_users))
    lists = [(flat(each["relation"]), _keys_of(each, "head"), _keys_of(each, "tail")) for each in in_slices(facts)]
    for each in in_slices(products):
        lists += [_brand_edges(each), *_category_edges(each), _attribute_edges(each)]
    return EdgeList(*(_chunked(list(arrays)) for arrays in zip(*lists, strict=True)))


def _chunked(arrays: list[pa.Array]) -> pa.ChunkedArray:
    return pa.chunked_array(arrays, pa.string())


def node_keys(kind: str | pa.Array, ids: pa.Array) -> pa.Array:
    """Return the keys of nodes, all of one kind or each of its own."""
    return pc.binary_join_element_wise(pa.scalar(kind) if isinstance(kind, str) else kind, ids, _SEPARATOR)


def kinds_and_ids(keys: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return what keys are made of."""
    pairs = pc.split_pattern(keys, _SEPARATOR, max_splits=1)
    return pc.list_element(pairs, 0), pc.list_element(pairs, 1)


def names_of(kinds: pa.Array, ids: pa.Array) -> pa.Array:
    """Return what a person calls each node: a category by its leaf, anything else by its id."""
    leaves = pc.replace_substring_regex(ids, f"^(?s).*{CATEGORY_SEPARATOR}", "")
    return pc.if_else(pc.equal(kinds, CATEGORY), leaves, ids)


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _keys_of(facts: pa.Table, end: str) -> pa.Array:
    return pc.binary_join_element_wise(flat(facts[f"{end}_kind"]), flat(facts[end]), _SEPARATOR)


def _edges(relation: str, head: pa.Array, tail: pa.Array) -> _Edges:
    return pa.repeat(pa.scalar(relation), len(head)), head, tail


def _brand_edges(products: pa.Table) -> _Edges:
    branded = products.filter(pc.not_equal(products["brand"], ""))
    head, tail = flat(branded["product_id"]), flat(branded["brand"])
    return _edges("HAS_BRAND", node_keys(PRODUCT, head), node_keys(BRAND, tail))


def _category_edges(products: pa.Table) -> list[_Edges]:
    """Return the edge of each product to the leaf of its path, and of each category to the one above it."""
    placed = products.filter(pc.greater(pc.list_value_length(products["category"]), 0))
    leaves = pc.binary_join(flat(placed["category"]), CATEGORY_SEPARATOR)
    of_products = _edges("IN_CATEGORY", node_keys(PRODUCT, flat(placed["product_id"])), node_keys(CATEGORY, leaves))
    first = _first_of_each(leaves)
    pairs = [
        (CATEGORY_SEPARATOR.join(path[: depth + 1]), CATEGORY_SEPARATOR.join(path[:depth]))
        for path in flat(placed["category"]).take(pa.array(first)).to_pylist()
        for depth in range(1, len(path))
    ]
    children, parents = (pa.array([pair[end] for pair in pairs], pa.string()) for end in (0, 1))
    return [of_products, _edges("CHILD_OF", node_keys(CATEGORY, children), node_keys(CATEGORY, parents))]


def _first_of_each(values: pa.Array) -> npt.NDArray[np.int64]:
    codes = values.dictionary_encode().indices.to_numpy()
    return np.unique(codes, return_index=True)[1].astype(np.int64)


def _attribute_edges(products: pa.Table) -> _Edges:
    attributes = flat(products["attributes"])
    counts = np.diff(attributes.offsets.to_numpy())
    start = attributes.offsets[0].as_py() if len(attributes) else 0
    pairs = [array.slice(start, int(counts.sum())) for array in (attributes.keys, attributes.items)]
    owners = flat(products["product_id"]).take(pa.array(np.repeat(np.arange(len(products)), counts)))
    tail = pc.binary_join_element_wise(*pairs, "=")
    return _edges("HAS_ATTRIBUTE", node_keys(PRODUCT, owners), node_keys(ATTRIBUTE, tail))
