"""A reason: a path of the graph from a user to a product, and how to say it in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

USER_NODE = -1
"""The node index of the user that the reasons are for."""


@dataclass(frozen=True)
class Node:
    """A node of the graph as people and the contract name it; the user's `id` is empty: the caller knows it."""

    kind: str
    id: str
    name: str


@dataclass(frozen=True)
class Hop:
    """A relationship `(head)-[relation]->(tail)` of the graph, as part of a path.

    `head_node` and `tail_node` are node indices of the snapshot, `USER_NODE` for the user; `forward` says whether the
    path goes from head to tail; `weight` is in (0, 1].
    """

    relation: str
    forward: bool
    head_node: int
    tail_node: int
    weight: float


@dataclass(frozen=True)
class Reason:
    """A path from the user to a product: `nodes` has one more than `hops`; `weight` is the product of the hops'."""

    nodes: tuple[int, ...]
    hops: tuple[Hop, ...]
    weight: float
    text: str


_DID = {
    "VIEWED": "looked at",
    "CLICKED": "clicked on",
    "ADDED_TO_CART": "put into the cart",
    "WISHLISTED": "wished for",
    "PURCHASED": "bought",
    "RATED": "rated",
    "REVIEWED": "reviewed",
}
_LINKED = {
    "ALSO_BOUGHT": "people who bought it also bought",
    "ALSO_VIEWED": "people who looked at it also looked at",
    "BOUGHT_TOGETHER": "it is often bought together with",
}
_SHARED = {
    "HAS_BRAND": "it is of the same brand",
    "IN_CATEGORY": "it is in the same category",
}


def describe(hops: Sequence[Hop], nodes: Sequence[Node], times: int) -> str:
    """Return a path in one English sentence.

    Args:
        hops: the path, the first being the user's.
        nodes: one more than hops.
        times: how often the candidate is in the user's history.
    """
    did = _DID[hops[0].relation]
    if len(hops) == 1:
        return f"You {did} it before" + (f", {times} times" if times > 1 else "")
    beginning = f"You {did} {nodes[1].name}"
    middle = nodes[2:-1]
    if not middle:
        return f"{beginning}; {_linked(hops[1])} this"
    if len(middle) == 1 and middle[0].kind == "product":
        return f"{beginning}; {_linked(hops[1])} {middle[0].name}, and {_linked(hops[2])} this"
    if len(middle) == 1:
        return f"{beginning}; {_shared(hops[1], middle[0])}"
    top = next((node for node, after in zip(middle, hops[2:], strict=True) if not after.forward), middle[-1])
    return f"{beginning}; both are within {top.name}"


def _linked(hop: Hop) -> str:
    return _LINKED.get(hop.relation, f"it is linked ({_words(hop.relation)}) with")


def _shared(hop: Hop, node: Node) -> str:
    if hop.relation == "HAS_ATTRIBUTE" and "=" in node.id:
        key, _, value = node.id.partition("=")
        return f"it has the same {key.replace('_', ' ')} ({value})"
    return f"{_SHARED.get(hop.relation, f'it shares its {_words(hop.relation)}')} ({node.name})"


def _words(relation: str) -> str:
    return relation.lower().replace("_", " ")
