"""The facts of a snapshot as one adjacency that can be walked both ways, strongest neighbours first."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.schema import CHILD_OF
from kg.snapshot import Snapshot

Int64s = npt.NDArray[np.int64]

_MOST_LEVELS = 10


@dataclass(frozen=True)
class Steps:
    """Steps along facts, one entry each: from `source [E]` to `target [E]` (node indices, int32).

    `relation [E]` int16 is a row of `Adjacency.relations`; `forward [E]` says whether the fact points the way of the
    step; `cost [E]` float32 is -log of the step's weight, never negative.
    """

    source: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    relation: npt.NDArray[np.int16]
    forward: npt.NDArray[np.bool_]
    cost: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Int64s) -> "Steps":
        """Return some of the steps."""
        return Steps(self.source[rows], self.target[rows], self.relation[rows], self.forward[rows], self.cost[rows])


@dataclass(frozen=True)
class Adjacency:
    """Steps sorted by source, then cost: the first of a source are the strongest.

    Shapes: `offsets [N + 1]` int64 into `row`, which names the steps of each node: all of them, or a choice.
    """

    relations: tuple[str, ...]
    offsets: Int64s
    row: Int64s
    steps: Steps

    def rows(self, nodes: npt.NDArray[np.integer], limit: int) -> tuple[Int64s, Int64s]:
        """Return the strongest steps from some nodes, at most `limit` each.

        Returns:
            Rows of `steps [E]`, and for each the place in `nodes` that it starts from `[E]`.
        """
        start = self.offsets[nodes]
        lengths = np.minimum(self.offsets[np.asarray(nodes) + 1] - start, limit)
        before = np.cumsum(lengths) - lengths
        origin = np.repeat(np.arange(len(nodes)), lengths)
        return self.row[np.arange(len(origin)) + (start - before)[origin]], origin


def adjacency(snapshot: Snapshot, relation_weights: Mapping[str, float] | None = None) -> Adjacency:
    """Build the adjacency of a snapshot's facts.

    A step along relation r between nodes of degrees d and d' in r weighs w_r / max w / sqrt(d · d'): the symmetric
    normalisation that the network propagates with, so that a brand with thousands of products says little.

    Args:
        snapshot: the facts.
        relation_weights: how much each relation counts; one that is missing or not positive is left out, since a model
            that did not use a relation can't give it as a reason. By default all count the same.
    """
    weights = dict.fromkeys(snapshot.facts, 1.0) if relation_weights is None else relation_weights
    used = tuple(name for name in snapshot.facts if weights.get(name, 0) > 0 and len(snapshot.facts[name]))
    largest = max((weights[name] for name in used), default=1.0)
    heads, tails, codes, costs = [], [], [], []
    for code, name in enumerate(used):
        head, tail = snapshot.facts[name].head, snapshot.facts[name].tail
        apart = head != tail  # a fact between a node and itself explains nothing
        head, tail = np.asarray(head[apart]), np.asarray(tail[apart])
        degree = np.bincount(head, minlength=snapshot.node_count) + np.bincount(tail, minlength=snapshot.node_count)
        cost = 0.5 * (np.log(degree[head]) + np.log(degree[tail])) - np.log(weights[name] / largest)
        heads.append(head)
        tails.append(tail)
        codes.append(np.full(len(head), code, np.int16))
        costs.append(cost.astype(np.float32))
    head, tail = (np.concatenate([np.empty(0, np.int32), *ends]).astype(np.int32) for ends in (heads, tails))
    relation = np.concatenate([np.empty(0, np.int16), *codes])
    cost = np.concatenate([np.empty(0, np.float32), *costs])
    both_ways = Steps(
        source=np.concatenate([head, tail]),
        target=np.concatenate([tail, head]),
        relation=np.tile(relation, 2),
        forward=np.repeat([True, False], len(head)),
        cost=np.tile(cost, 2),
    )
    order = np.lexsort((both_ways.target, both_ways.cost, both_ways.source))
    counts = np.bincount(both_ways.source, minlength=snapshot.node_count)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Adjacency(used, offsets, np.arange(len(order)), both_ways.take(order))


def climbing(whole: Adjacency, product_count: int) -> Adjacency:
    """Return only the steps that lead from a category to the one that it lies within.

    What else facts join, a brand and its competitor say, contains nothing.
    """
    steps = whole.steps
    child_of = whole.relations.index(CHILD_OF.type) if CHILD_OF.type in whole.relations else -1
    up = steps.forward & (steps.relation == child_of)
    up &= (steps.source >= product_count) & (steps.target >= product_count)
    kept_before = np.concatenate([[0], np.cumsum(up)])
    return Adjacency(whole.relations, kept_before[whole.offsets].astype(np.int64), np.flatnonzero(up), steps)


def below(whole: Adjacency, up: Adjacency, product_count: int) -> Int64s:
    """Return how many products lie below each node `[N]`: a category's own, and those of what leads up to it."""
    steps = whole.steps
    count = np.bincount(steps.target[steps.source < product_count], minlength=len(whole.offsets) - 1)
    fresh = count
    for _ in range(_MOST_LEVELS):
        fresh = np.bincount(steps.target[up.row], fresh[steps.source[up.row]], len(count)).astype(np.int64)
        if not fresh.any():
            break
        count = count + fresh
    return count
