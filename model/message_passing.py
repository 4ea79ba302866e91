"""Relation-weighted propagation as PyTorch Geometric says it: slow, obvious, the oracle of `model.graph.propagate`.

A module of its own, because importing torch_geometric takes seconds that a server's start should not.
"""

import warnings

import torch
from torch import Tensor

from model.graph import Relation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch_geometric 2.7 still uses torch.jit.script
    from torch_geometric.nn import MessagePassing


class RelationPropagation(MessagePassing):  # type: ignore[misc]  # torch_geometric is untyped
    """One round, Σ_r α_r Â_r h, over edge lists; arguments and result are those of `model.graph.propagate`."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, nodes: Tensor, alpha: Tensor, relations: tuple[Relation, ...]) -> Tensor:
        """Return `[N, d]` for `nodes [N, d]`, `alpha [R]` and R relations."""
        result = torch.zeros_like(nodes)
        for weight, relation in zip(alpha, relations, strict=True):
            edge_index, edge_weight = relation.edge_index()
            result = result + weight * self.propagate(edge_index, nodes=nodes, edge_weight=edge_weight)
        return result

    def message(self, nodes_j: Tensor, edge_weight: Tensor) -> Tensor:
        """Return what each edge carries `[E, d]`."""
        return edge_weight[:, None] * nodes_j
