"""A snapshot and a split as if some products did not exist: what a model that is to be asked about them trains on.

Their texts, their facts and their interactions are gone, and nothing ranks against them: the network meets them as it
meets what joins a catalogue after training (model.refresh).
"""

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.snapshot import Edges, Histories, Snapshot
from kg.taking import taken
from kg.vocabulary import Vocabulary
from model.case import Case, Split

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]


def without_products(snapshot: Snapshot, split: Split, gone: Bools) -> tuple[Snapshot, Split]:
    """Return both over the remaining products, whose indices close up.

    Args:
        snapshot: all products.
        split: its training histories name none of the products that go.
        gone: `[P]` the products that go.

    Returns:
        The snapshot, and the split with the part of the validation case that asks for products that remain. What is
        asked at the end is left out.
    """
    kept = np.flatnonzero(~gone)
    products = Vocabulary(snapshot.products.array.take(pa.array(kept)))
    index = np.where(gone, -1, np.cumsum(~gone) - 1).astype(np.int32)
    shift = len(snapshot.products) - len(products)
    nodes = np.concatenate([index, np.arange(len(snapshot.nodes)) + len(products)]).astype(np.int32)
    identity = hashlib.blake2b(np.packbits(gone).tobytes(), digest_size=8).hexdigest()
    smaller = replace(
        snapshot,
        products=products,
        catalogue=taken(snapshot.catalogue, kept),
        histories=_histories(snapshot.histories, index),
        facts={name: _edges(edges, nodes) for name, edges in snapshot.facts.items()},
        content_hash=f"{snapshot.content_hash}-without-{shift}-{identity}",
    )
    validation = split.validation
    warm = _case(validation.narrowed(~gone[validation.truth_product_index], validation.name), index)
    return smaller, Split(split.config, _histories(split.train, index), warm, warm)


def _histories(histories: Histories, index: Int32s) -> Histories:
    remaining = histories.where(index[histories.product_index] >= 0)
    return replace(remaining, product_index=index[remaining.product_index])


def _edges(edges: Edges, nodes: Int32s) -> Edges:
    head, tail = nodes[edges.head], nodes[edges.tail]
    remaining = (head >= 0) & (tail >= 0)
    return Edges(head[remaining], tail[remaining])


def _case(case: Case, index: Int32s) -> Case:
    return replace(
        case,
        known=_histories(case.known, index),
        truth_product_index=index[case.truth_product_index],
        candidates=case.candidates[index >= 0],
        given=None if case.given is None else _histories(case.given, index),
        had=None if case.had is None else _histories(case.had, index),
    )
