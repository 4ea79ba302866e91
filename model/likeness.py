"""Which products are alike by the graph: what intra-list diversity is measured with."""

import numpy as np
from scipy import sparse

from kg.snapshot import Snapshot

_LEVELS = 8
"""Steps up from a product's own nodes (category to parent) that still count as shared."""


def graph_features(snapshot: Snapshot) -> sparse.csr_matrix:
    """Return which nodes describe each product, directly or from above: brand, categories, attributes, entities.

    Returns:
        `[P, F]` sparse, rows of length one; a product that nothing describes has an empty row. The cosine of two rows
        is the likeness of two products. Facts between products don't count: they say what is bought together.
    """
    size, products = snapshot.node_count, len(snapshot.products)
    heads, tails = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for edges in snapshot.facts.values():
        describing = edges.tail >= products
        heads.append(edges.head[describing].astype(np.int64))
        tails.append(edges.tail[describing].astype(np.int64))
    head, tail = np.concatenate(heads), np.concatenate(tails)
    step = sparse.csr_matrix((np.ones(len(head), np.float32), (head, tail)), shape=(size, size))
    own = step[:products]
    upward = step.copy()
    upward.data[np.repeat(np.arange(size) < products, np.diff(upward.indptr))] = 0
    upward.eliminate_zeros()
    total, level = own, own
    for _ in range(_LEVELS):
        level = level @ upward
        if not level.nnz:
            break
        total = total + level
    total.data[:] = 1
    length = np.sqrt(np.maximum(np.asarray(total.sum(axis=1)).ravel(), 1))
    return (sparse.diags_array((1 / length).astype(np.float32)) @ total).tocsr()[:, products:]
