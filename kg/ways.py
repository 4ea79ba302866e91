"""Ways over facts from several ends at once, and where they meet: the search behind reasons.

A way takes one step along any fact, and then climbs: from a category to those above it. Each node is bounded to its
strongest steps, so that a brand with thousands of products costs nothing. Two ways, one from either end, make a path
where they meet.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.adjacency import Adjacency

_NEIGHBOURS = 96
_LEVELS = 3

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Ways:
    """Ways from some ends, ordered by the node that they lead to; the shortest one for each end and node.

    Shapes: `[W]` each. `node` ascending; `end` the place of the end that the way begins at; `cost` of the whole way;
    `row` of its last step in the adjacency, -1 where it has none; `before` the place of the way without that step;
    `previous` the node before, -1 where there is none.
    """

    node: Int32s
    end: Int64s
    cost: Float32s
    row: Int64s
    before: Int64s
    previous: Int32s

    def steps(self, way: int) -> list[int]:
        """Return the rows of a way's steps, the first one first."""
        rows: list[int] = []
        while (row := int(self.row[way])) >= 0:
            rows.append(row)
            way = int(self.before[way])
        return rows[::-1]


def ways_from(ends: Int32s, cost: Float32s, every: Adjacency, up: Adjacency, product_count: int) -> Ways:
    """Return the ways from `ends`, which are unique and were reached at `cost`.

    Args:
        ends: `[E]` node indices.
        cost: `[E]`.
        every: all steps.
        up: those that climb.
        product_count: node indices below this are products, from which nothing climbs.
    """
    count = len(ends)
    size = max(1, len(every.offsets) - 1)
    node, end, total = [ends], [np.arange(count)], [cost]
    row, before, previous = [np.full(count, -1)], [np.full(count, -1)], [np.full(count, -1, np.int32)]
    known = np.arange(count) * size + ends
    first, made = 0, count
    for level in range(1 + _LEVELS):
        from_node, from_end, from_cost = node[-1], end[-1], total[-1]
        onward = np.arange(len(from_node)) if not level else np.flatnonzero(from_node >= product_count)
        taken, origin = (up if level else every).rows(from_node[onward], _NEIGHBOURS)
        if not len(taken):
            break
        origin = onward[origin]
        target, reached = every.steps.target[taken], from_cost[origin] + every.steps.cost[taken]
        key = from_end[origin] * size + target
        order = np.argsort(reached, kind="stable")
        fresh, place = np.unique(key[order], return_index=True)
        new = ~np.isin(fresh, known)
        best = order[place[new]]
        known = np.concatenate([known, fresh[new]])
        node.append(target[best])
        end.append(from_end[origin[best]])
        total.append(reached[best])
        row.append(taken[best])
        before.append(first + origin[best])
        previous.append(from_node[origin[best]])
        first, made = made, made + len(best)
    nodes = np.concatenate(node)
    order = np.argsort(nodes, kind="stable")
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))
    began = np.concatenate(before)[order]
    return Ways(
        node=nodes[order],
        end=np.concatenate(end)[order],
        cost=np.concatenate(total)[order],
        row=np.concatenate(row)[order],
        before=np.where(began >= 0, place_of[began], -1),
        previous=np.concatenate(previous)[order],
    )


def meetings(near: Ways, far: Ways, most: int, most_per_end: int) -> list[tuple[int, int]]:
    """Return the cheapest pairs of a near and a far way that meet in one node, cheapest first.

    Left out are those that have the last step in common: they turn back on themselves.

    Args:
        near: from many ends.
        far: from one.
        most: how many pairs.
        most_per_end: how many of one near end.
    """
    low, high = (np.searchsorted(near.node, far.node, side) for side in ("left", "right"))
    there = np.repeat(np.arange(len(far.node)), high - low)
    here = np.arange(len(there)) + (low - (np.cumsum(high - low) - (high - low)))[there]
    turns = (near.previous[here] == far.previous[there]) & (near.previous[here] >= 0)
    # A product of the history on the way from another one would be a better beginning itself.
    passes = np.isin(near.node[here], near.node[near.row < 0]) & (near.row[here] >= 0) & (far.row[there] >= 0)
    kept = np.flatnonzero(~(turns | passes))
    here, there = here[kept], there[kept]
    cost = near.cost[here] + far.cost[there]
    order = np.lexsort((cost, near.end[here]))
    ends = near.end[here[order]]
    rank = np.arange(len(order)) - np.searchsorted(ends, ends)
    chosen = order[rank < most_per_end]
    chosen = chosen[np.argsort(cost[chosen], kind="stable")][:most]
    return list(zip(here[chosen].tolist(), there[chosen].tolist(), strict=True))
