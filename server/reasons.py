"""Reasons for results: paths from the history over the graph, found in the snapshot's arrays."""

from collections.abc import Sequence, Set

from kg.paths import Reasoner
from kg.reason import USER_NODE, Hop
from kg.reason import Reason as Path
from kg.snapshot import Histories
from kgrank.v1 import common_pb2

_FORWARD = common_pb2.Edge.DIRECTION_FORWARD
_BACKWARD = common_pb2.Edge.DIRECTION_BACKWARD


def reasons_for(
    reasoner: Reasoner,
    history: Histories,
    products: Sequence[int],
    *,
    user_id: str | None,
    k: int,
    not_stored: Set[int] = frozenset(),
) -> list[list[common_pb2.Reason]]:
    """Return up to k reasons for each product, strongest first.

    Args:
        reasoner: of the snapshot in service.
        history: one history.
        products: product indices.
        user_id: names the user at the start of each path; None leaves the user and the first hop out.
        k: at most so many for each.
        not_stored: products of the history that only the request tells of: the graph has no hop from the user to them,
            so their paths begin at the product.
    """
    around = reasoner.surroundings(history.product_index, history.type)
    return [
        [_message(reasoner, path, user_id, not_stored) for path in reasoner.reasons(around, product, k)]
        for product in products
    ]


def _message(reasoner: Reasoner, path: Path, user_id: str | None, not_stored: Set[int]) -> common_pb2.Reason:
    skipped = 1 if path.nodes[0] == USER_NODE and (user_id is None or path.nodes[1] in not_stored) else 0
    return common_pb2.Reason(
        nodes=[_node(reasoner, index, user_id or "") for index in path.nodes[skipped:]],
        edges=[_edge(hop) for hop in path.hops[skipped:]],
        strength=path.weight,
        text=path.text,
    )


def _node(reasoner: Reasoner, index: int, user_id: str) -> common_pb2.Node:
    node = reasoner.node(index)
    return common_pb2.Node(kind=node.kind, id=user_id if index == USER_NODE else node.id, name=node.name)


def _edge(hop: Hop) -> common_pb2.Edge:
    return common_pb2.Edge(relation=hop.relation, direction=_FORWARD if hop.forward else _BACKWARD, weight=hop.weight)
