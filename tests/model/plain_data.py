"""What a baseline learns from, made of bare histories: products without a catalogue, text features by hand."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.snapshot import Edges, Histories, Snapshot
from kg.vocabulary import Vocabulary
from model.baselines import FitData
from model.case import Case

NODES = pa.schema([("kind", pa.string()), ("id", pa.string()), ("name", pa.string())])


def plain_snapshot(histories: Histories, product_count: int, facts: Mapping[str, Edges] | None = None) -> Snapshot:
    """Return a snapshot of products `p0`…, and of as many brands as the facts touch."""
    facts = facts or {}
    last = max((int(max(edges.head.max(), edges.tail.max())) for edges in facts.values() if len(edges)), default=-1)
    nodes = [{"kind": "brand", "id": f"b{row}", "name": f"b{row}"} for row in range(max(0, last + 1 - product_count))]
    return Snapshot(
        users=Vocabulary([f"u{user}" for user in range(len(histories))]),
        products=Vocabulary([f"p{product}" for product in range(product_count)]),
        catalogue=pa.table({"text": [f"product {product}" for product in range(product_count)]}),
        nodes=pa.Table.from_pylist(nodes, NODES),
        histories=histories,
        facts=facts,
        as_of_ms=int(histories.at_ms.max(initial=0)),
        content_hash="plain",
    )


def plain_data(
    known: Histories,
    product_count: int,
    *,
    facts: Mapping[str, Edges] | None = None,
    text: npt.NDArray[np.float32] | None = None,
    validation: Case | None = None,
) -> FitData:
    """Return data to fit on; by default validation asks everybody for one product each, one that they had."""
    features = np.eye(product_count, dtype=np.float32) if text is None else text
    return FitData(
        known=known,
        snapshot=plain_snapshot(known, product_count, facts),
        text=lambda: features,
        validation=validation or case_of(known, product_count),
        seed=3,
        threads=1,
    )


def case_of(known: Histories, product_count: int) -> Case:
    """Ask every user with a history for the first product of it."""
    asked = np.flatnonzero(np.diff(known.offsets))
    return Case(
        name="validation",
        known=known,
        user_index=asked,
        truth_offsets=np.arange(len(asked) + 1),
        truth_product_index=known.product_index[known.offsets[asked]],
        now_ms=np.full(len(asked), int(known.at_ms.max(initial=0)) + 1),
        exclude_seen=False,
        candidates=np.ones(product_count, np.bool_),
    )


def truth_of(case: Case, row: int) -> npt.NDArray[np.int32]:
    """Return the right products of one of a case's users."""
    return case.truth_product_index[case.truth_offsets[row] : case.truth_offsets[row + 1]]
