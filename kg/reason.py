"""A reason: paths of the graph from a user over one product of the history to another product."""

from dataclasses import dataclass

from kg.schema import CHILD_OF, IN_CATEGORY

USER_NODE = -1
"""The node index of the user that the reasons are for."""

PEOPLE_NODE = -2
"""The node index of somebody who had both products. Paths of several people are told as one, and nobody is named."""


class AtLeast(int):
    """A number of people who were found, where not all were looked up: there may be more."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph as people and the contract name it; a user's `id` is empty: the caller knows its own, and
    nobody is told of others."""

    kind: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Hop:
    """A relationship `(head)-[relation]->(tail)` of the graph, as part of a path.

    `head_node` and `tail_node` are node indices of the snapshot, `USER_NODE` or `PEOPLE_NODE`; `forward` says whether
    the path goes from head to tail; `weight` is in (0, 1].
    """

    relation: str
    forward: bool
    head_node: int
    tail_node: int
    weight: float


@dataclass(frozen=True, slots=True)
class Path:
    """A path from the user to a product.

    Args:
        nodes: one more than `hops`; none twice.
        hops: the first is the user's own.
        weight: the product of the hops'.
        people: how many others had both products in this order, where the path leads over them; else 0. `AtLeast` where
            not all were looked up.
        at_once: some of those had both at the same moment, in no order.
        between: how many other products it leads over.
    """

    nodes: tuple[int, ...]
    hops: tuple[Hop, ...]
    weight: float
    people: int = 0
    between: int = 0
    at_once: bool = False

    @property
    def start(self) -> int:
        """The product of the history that the path begins with."""
        return self.nodes[1]

    @property
    def kind(self) -> tuple[str, ...]:
        """What the path is made of, whatever the nodes: two shared attributes are of one kind."""
        return () if len(self.hops) == 1 else (self.hops[1].relation, self.hops[-1].relation)

    @property
    def climbs(self) -> bool:
        """Whether it leads from the categories of two products to one above, within which both are."""
        between = self.hops[2:-1]
        if not between or not all(hop.relation == CHILD_OF.type for hop in between):
            return False
        first, last = self.hops[1], self.hops[-1]
        return first.forward and not last.forward and first.relation == last.relation == IN_CATEGORY.type

    @property
    def top(self) -> int:
        """The highest node between the product of the history and the result; `start` where there is none."""
        middle = zip(self.nodes[2:-1], self.hops[2:], strict=True)
        return next((node for node, after in middle if not after.forward), self.nodes[-2])

    @property
    def topic(self) -> tuple[object, ...]:
        """What the path says: a brand that two products of the history share with the result is one topic."""
        return (*self.kind, self.start if self.top == PEOPLE_NODE else self.top)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a product suits a user, as one sentence tells it.

    Args:
        path: the strongest path from one product of the history.
        also: another path from the same product that the sentence tells of, too; or nothing.
        strength: from 0 to 1, for ordering; see `kg.paths.Reasoner.reasons`.
        text: the sentence.
    """

    path: Path
    also: tuple[Path, ...]
    strength: float
    text: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every path that the sentence tells of."""
        return (self.path, *self.also)
