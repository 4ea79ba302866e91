"""Reasons: paths of the graph from a user over the history to a product, strongest first.

Every hop is a relationship that exists: the user's interactions, and the snapshot's facts, walked either way. The
search meets in the middle: what the history's products touch (and what lies above that: parent categories), and what
the candidate touches, each side bounded, so that a brand with thousands of products costs nothing. The few nodes that
both sides reach make a small graph; networkx finds its k shortest simple paths (Yen 1971), an edge costing -log of
its weight.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import networkx as nx
import numpy as np
import numpy.typing as npt

from kg.adjacency import adjacency, climbing
from kg.reason import USER_NODE, Hop, Node, Reason, describe
from kg.schema import RELATIONSHIP_OF
from kg.snapshot import Snapshot
from kg.tables import InteractionType

HISTORY_PRODUCTS = 30
"""Distinct products of the history that are looked at, the latest."""

_NEIGHBOURS = 96
_LEVELS = 3
_MEETING_NODES = 24
_LOOK_AT = 3
_RECENCY = 0.05
"""How much the cost of a first hop grows with each more recent product."""

_INTERACTION_RELATIONS = tuple(RELATIONSHIP_OF[kind].type for kind in InteractionType)
"""By type code."""


@dataclass(frozen=True)
class _Reached:
    """The cheapest known way to nodes near one end.

    Shapes: `node [N]` int32 ascending; `cost [N]` of the way there; `by [N]` the row of its last step, -1 at the end
    where the way began.
    """

    node: npt.NDArray[np.int32]
    cost: npt.NDArray[np.float32]
    by: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Surroundings:
    """What a history touches, found once and used for every candidate.

    Args:
        times: how often the user did the last thing done with a product, of the products in `starts`.
        starts: the user's hop to each of the latest of them.
        reached: what lies around those.
    """

    times: Mapping[int, int]
    starts: Mapping[int, Hop]
    reached: _Reached


class Reasoner:
    """Finds reasons in one snapshot; immutable once made, may be shared between threads.

    Args:
        snapshot: where the facts are.
        relation_weights: how much each relation counts, as a model learned it; see `kg.adjacency.adjacency`.
    """

    def __init__(self, snapshot: Snapshot, relation_weights: Mapping[str, float] | None = None) -> None:
        self._snapshot = snapshot
        self._product_count = len(snapshot.products)
        self._steps = adjacency(snapshot, relation_weights)
        self._up = climbing(self._steps, self._product_count)

    def node(self, index: int) -> Node:
        """Return what a node index stands for."""
        if index == USER_NODE:
            return Node("user", "", "you")
        if index < self._product_count:
            product_id = self._snapshot.products.id(index)
            return Node("product", product_id, self._snapshot.catalogue["title"][index].as_py() or product_id)
        row = index - self._product_count
        kind, node_id, name = (self._snapshot.nodes[column][row].as_py() for column in ("kind", "id", "name"))
        return Node(kind, node_id, name)

    def surroundings(self, product_index: npt.NDArray[np.integer], type: npt.NDArray[np.integer]) -> Surroundings:
        """Look around a history.

        Args:
            product_index: `[H]` its products, oldest first.
            type: `[H]` codes of `kg.tables.CODES`.
        """
        done = list(zip(product_index[::-1].tolist(), type[::-1].tolist(), strict=True))
        starts: dict[int, Hop] = {}
        last: dict[int, int] = {}
        for product, code in done:
            if product not in starts and len(starts) < HISTORY_PRODUCTS:
                weight = float(np.exp(-_RECENCY * len(starts)))
                starts[product] = Hop(_INTERACTION_RELATIONS[code], True, USER_NODE, product, weight)
                last[product] = code
        times = Counter(product for product, code in done if last.get(product) == code)
        products = np.fromiter(starts, np.int32, len(starts))
        cost = -np.log(np.array([hop.weight for hop in starts.values()], np.float32))
        return Surroundings(times, starts, self._reach(products, cost))

    def reasons(self, around: Surroundings, candidate: int, k: int = 3) -> list[Reason]:
        """Return up to k different reasons for one product, strongest first; none if nothing links it.

        Args:
            around: the user's history, from `surroundings`.
            candidate: a product index.
            k: how many at most.
        """
        graph = self._small_graph(around, candidate)
        if not (graph.has_node(USER_NODE) and graph.has_node(candidate)):
            return []
        return [
            Reason(
                nodes=path,
                hops=hops,
                weight=math.prod(hop.weight for hop in hops),
                text=describe(hops, [self.node(node) for node in path], around.times.get(candidate, 0)),
            )
            for path, hops in _different(graph, candidate, k)
        ]

    def _small_graph(self, around: Surroundings, candidate: int) -> "nx.DiGraph[int]":
        """Return the ways that meet between history and candidate, directed from the user to the candidate."""
        near, far = around.reached, self._reach(np.array([candidate], np.int32), np.zeros(1, np.float32))
        _, here, there = np.intersect1d(near.node, far.node, assume_unique=True, return_indices=True)
        best = np.argsort(near.cost[here] + far.cost[there], kind="stable")[:_MEETING_NODES]
        graph: nx.DiGraph[int] = nx.DiGraph()
        for meeting in here[best].tolist():
            place, node = meeting, int(near.node[meeting])
            while (row := int(near.by[place])) >= 0:
                hop = self._hop(row)
                node = int(self._steps.steps.source[row])
                graph.add_edge(node, int(self._steps.steps.target[row]), hop=hop, cost=-math.log(hop.weight))
                place = int(np.searchsorted(near.node, node))
            hop = around.starts[node]
            graph.add_edge(USER_NODE, node, hop=hop, cost=-math.log(hop.weight))
        for meeting in there[best].tolist():
            place = meeting
            while (row := int(far.by[place])) >= 0:
                # This side walked away from the candidate; the path passes the same fact the other way.
                hop = self._hop(row)
                hop = replace(hop, forward=not hop.forward)
                node = int(self._steps.steps.source[row])
                graph.add_edge(int(self._steps.steps.target[row]), node, hop=hop, cost=-math.log(hop.weight))
                place = int(np.searchsorted(far.node, node))
        return graph

    def _reach(self, nodes: npt.NDArray[np.int32], cost: npt.NDArray[np.float32]) -> _Reached:
        """Walk one step from `nodes`, which were reached at `cost`, and then up; fewer steps win over cheaper ones."""
        steps = self._steps.steps
        known, costs, by = nodes, cost, np.full(len(nodes), -1, np.int64)
        frontier, frontier_cost = nodes, cost
        for level in range(1 + _LEVELS):
            row, origin = (self._up if level else self._steps).rows(frontier, _NEIGHBOURS)
            if not len(row):
                break
            target, total = steps.target[row], frontier_cost[origin] + steps.cost[row]
            order = np.argsort(total, kind="stable")
            _, first = np.unique(target[order], return_index=True)
            best = order[first]
            best = best[~np.isin(target[best], known)]
            known = np.concatenate([known, target[best]])
            costs = np.concatenate([costs, total[best]])
            by = np.concatenate([by, row[best]])
            linking = best[target[best] >= self._product_count]
            frontier, frontier_cost = target[linking], total[linking]
        order = np.argsort(known)
        return _Reached(known[order], costs[order], by[order])

    def _hop(self, row: int) -> Hop:
        steps = self._steps.steps
        ends = int(steps.source[row]), int(steps.target[row])
        forward = bool(steps.forward[row])
        head, tail = ends if forward else ends[::-1]
        return Hop(self._steps.relations[steps.relation[row]], forward, head, tail, float(np.exp(-steps.cost[row])))


_Path = tuple[tuple[int, ...], tuple[Hop, ...]]


def _different(graph: "nx.DiGraph[int]", candidate: int, k: int) -> list[_Path]:
    """Return the k shortest paths, those of a kind not yet told first: three shared attributes are one kind."""
    told: set[tuple[str, ...]] = set()
    first: list[_Path] = []
    again: list[_Path] = []
    try:
        for nodes in islice(nx.shortest_simple_paths(graph, USER_NODE, candidate, weight="cost"), _LOOK_AT * k):
            path = tuple(nodes), tuple(graph.edges[edge]["hop"] for edge in pairwise(nodes))
            kind = tuple(hop.relation for hop in path[1])
            (again if kind in told else first).append(path)
            told.add(kind)
            if len(first) == k:
                break
    except nx.NetworkXNoPath:
        return []
    return sorted((first + again)[:k], key=lambda path: -math.prod(hop.weight for hop in path[1]))
