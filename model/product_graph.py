"""The graph a model learns on: a snapshot's products, the nodes that link them, and their relations.

A node that only one edge touches links nothing and is left out with its edge: catalogues of crawled facts have many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kg.schema import CATALOGUE, WELL_KNOWN_FACTS
from kg.snapshot import Edges, Histories, Snapshot
from kg.vocabulary import Vocabulary
from model.config import ModelConfig
from model.errors import ModelError
from model.graph import TRANSITION, Relation, fact_relations, symmetric_relation, transition_edges

WELL_KNOWN_RELATIONS = frozenset({*(each.type for each in CATALOGUE), *WELL_KNOWN_FACTS})
"""What snapshots of other shops have, if this one does not."""


@dataclass(frozen=True)
class ProductGraph:
    """Products (the first P nodes) and linking nodes, N in all.

    Args:
        product_count: P.
        keys: the id of every node across snapshots, `[N]`: its kind and its id.
        texts: what a language model reads of every node, `[N]`.
        relations: relation name to its edges.
        linked: the snapshot's node index of each linking node, `[N - P]`.
    """

    product_count: int
    keys: Vocabulary
    texts: list[str]
    relations: dict[str, Relation]
    linked: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def relations_of(self, names: list[str], device: torch.device) -> tuple[Relation, ...]:
        """Return the relations in the order of `names`; one that this graph does not have is empty."""
        nothing = np.empty(0, np.int64)
        return tuple(
            (self.relations.get(name) or symmetric_relation(nothing, nothing, len(self))).to(device) for name in names
        )


def check_relations(snapshot: Snapshot, names: Sequence[str]) -> None:
    """Refuse `model.exclude_relations` that look misspelt: the model would see what it must not.

    Any other name may be of another snapshot, or of another day's; `relations_not_there` has it.

    Raises:
        ModelError: the snapshot has no such relation, but one of the same letters, or of one more or less.
    """
    for name in relations_not_there(snapshot, names):
        for seen in (each for each in snapshot.facts if each not in names and _same_but_for_a_slip(name, each)):
            raise ModelError(
                f"model.exclude_relations names {name}, which the snapshot does not have: is {seen} meant?",
                f"Say {seen}, or leave the name out: the model can't see what is not there.",
            )


def relations_not_there(snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """Return the names that are no relation of a snapshot, and none that any snapshot may have."""
    return [name for name in names if name not in snapshot.facts and name not in WELL_KNOWN_RELATIONS]


def _same_but_for_a_slip(one: str, other: str) -> bool:
    """Return whether two names have the same letters, in any order, or differ by one that is missing."""
    shorter, longer = sorted((one.upper().replace("_", ""), other.upper().replace("_", "")), key=len)
    if len(shorter) == len(longer):
        return sorted(shorter) == sorted(longer)
    return shorter in (longer[:place] + longer[place + 1 :] for place in range(len(longer)))


def product_graph(snapshot: Snapshot, histories: Histories, config: ModelConfig) -> ProductGraph:
    """Build the graph.

    Args:
        snapshot: products, nodes, facts.
        histories: the interactions that transitions are counted in: those of training, nothing later.
        config: which relations the model sees.
    """
    product_count = len(snapshot.products)
    facts = {name: edges for name, edges in snapshot.facts.items() if name not in config.exclude_relations}
    degree = np.zeros(snapshot.node_count, np.int64)
    for edges in facts.values():
        for end in (edges.head, edges.tail):
            degree += np.bincount(end, minlength=snapshot.node_count)
    linked = product_count + np.flatnonzero(degree[product_count:] > 1)
    index = np.full(snapshot.node_count, -1, np.int64)
    index[:product_count] = np.arange(product_count)
    index[linked] = product_count + np.arange(len(linked))
    node_count = product_count + len(linked)

    kept = {name: _kept(edges, index) for name, edges in facts.items()}
    relations = fact_relations(kept, node_count, exclude=())
    if config.transitions:
        head, tail, count = transition_edges(histories, product_count, config.max_transitions, config.transition_steps)
        if len(head):
            relations[TRANSITION] = symmetric_relation(head, tail, node_count, count)
    nodes = snapshot.nodes.take(pa.array(linked - product_count))
    node_keys = [f"{node['kind']}	{node['id']}" for node in nodes.select(["kind", "id"]).to_pylist()]
    return ProductGraph(
        product_count=product_count,
        keys=Vocabulary([f"product\t{product_id}" for product_id in snapshot.products.array.to_pylist()] + node_keys),
        texts=snapshot.catalogue["text"].to_pylist() + nodes["name"].to_pylist(),
        relations=relations,
        linked=linked,
    )


def _kept(edges: Edges, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Edges:
    head, tail = index[edges.head], index[edges.tail]
    inside = (head >= 0) & (tail >= 0)
    return Edges(head[inside].astype(np.int32), tail[inside].astype(np.int32))
