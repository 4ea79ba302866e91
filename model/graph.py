"""The graph that messages travel on, and relation-weighted propagation over it.

Each relation r is made symmetric and normalised as in LightGCN (He et al. 2020, arXiv:2002.02126, eq. 9):

    Â_r = D_r^(-1/2) A_r D_r^(-1/2)            h^(l+1) = Σ_r α_{l,r} Â_r h^(l),  α = softplus(w)

Because Â_r is symmetric, the backward pass is the same sparse product as the forward pass, and the gradient of α comes
for free from it: with S_r = Â_r g, ∂h = Σ_r α_r S_r and ∂α_r = ⟨S_r, h⟩. `propagate` does so with `embedding_bag`, in
bf16 on request, over compressed rows of normalised weights, nodes without an edge of the relation left out: summing
is quick, and what costs is to go over `[N, d]` once more. `model.message_passing` says the same with PyTorch Geometric
and is its oracle in tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kg.snapshot import Edges, Histories

TRANSITION = "NEXT"
"""The relation that histories give: products that follow each other."""


@dataclass(frozen=True)
class Relation:
    """One symmetric, normalised relation as compressed rows over N nodes.

    Shapes: `offsets [N + 1]`, `neighbours [E]` (ascending within a row), int32, or int64 for two billion edges;
    `weight [E]` float32, the values of A before normalisation, None when all are 1; `scale [N]` float32, D^(-1/2), zero
    for a node without edges.
    """

    offsets: Tensor
    neighbours: Tensor
    weight: Tensor | None
    scale: Tensor

    def to(self, device: torch.device) -> "Relation":
        """Return the relation on another device."""
        weight = None if self.weight is None else self.weight.to(device)
        return Relation(self.offsets.to(device), self.neighbours.to(device), weight, self.scale.to(device))

    @cached_property
    def rows(self) -> Tensor:
        """The nodes that have an edge `[M]`, ascending."""
        return self.offsets.diff().nonzero()[:, 0]

    @cached_property
    def row_offsets(self) -> Tensor:
        """Where the edges of each of `rows` start, and where the last one's end, `[M + 1]`."""
        return torch.cat([self.offsets[self.rows], self.offsets[-1:]])

    @cached_property
    def normalised(self) -> Tensor:
        """The values of Â `[E]` float32."""
        return self.edge_index()[1]

    @cached_property
    def normalised_half(self) -> Tensor:
        """The values of Â `[E]` bf16."""
        return self.normalised.bfloat16()

    def edge_index(self) -> tuple[Tensor, Tensor]:
        """Return the messages `[2, E]` (source, target) and their normalised weights `[E]`."""
        nodes = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        target = torch.repeat_interleave(nodes, self.offsets.long().diff())
        source = self.neighbours.long()
        weight = self.scale[target] * self.scale[source]
        return torch.stack([source, target]), weight if self.weight is None else weight * self.weight


Int64s = npt.NDArray[np.int64]


def symmetric_relation(
    head: npt.NDArray[np.integer],
    tail: npt.NDArray[np.integer],
    node_count: int,
    weight: npt.NDArray[np.float32] | None = None,
) -> Relation:
    """Build a relation of edges `[E]` in either direction; edges that repeat are one, their weights added; loops go."""
    apart = head != tail
    head, tail = head[apart].astype(np.int64), tail[apart].astype(np.int64)
    keys = np.concatenate([head * node_count + tail, tail * node_count + head])
    unique, place = np.unique(keys, return_inverse=True)
    total: npt.NDArray[np.float64] | None = None
    if weight is not None:
        total = np.asarray(np.bincount(place, np.tile(weight[apart], 2), minlength=len(unique)), np.float64)
    rows, neighbours = np.divmod(unique, node_count)
    degree: npt.NDArray[np.floating] = np.bincount(rows, weights=total, minlength=node_count).astype(np.float64)
    with np.errstate(divide="ignore"):
        scale = np.where(degree > 0, degree**-0.5, 0.0)
    counts = np.bincount(rows, minlength=node_count)
    kind = np.int32 if len(rows) < 2**31 else np.int64  # half the memory to read
    return Relation(
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(kind)),
        neighbours=torch.from_numpy(neighbours.astype(kind)),
        weight=None if total is None else torch.from_numpy(total.astype(np.float32)),
        scale=torch.from_numpy(scale.astype(np.float32)),
    )


def fact_relations(facts: Mapping[str, Edges], node_count: int, exclude: tuple[str, ...]) -> dict[str, Relation]:
    """Return the relations of a snapshot's facts, in order of name."""
    return {
        name: symmetric_relation(edges.head, edges.tail, node_count)
        for name, edges in sorted(facts.items())
        if name not in exclude and len(edges)
    }


def transition_edges(
    histories: Histories, product_count: int, most: int, steps: int = 1
) -> tuple[Int64s, Int64s, npt.NDArray[np.float32]]:
    """Return how often products follow each other in histories: `(head [E], tail [E], weight [E])`, head < tail.

    Products that stand n steps apart count 1/n, up to `steps`.
    Each product keeps its `most` heaviest neighbours; a pair stays when either of the two keeps it.
    """
    products = histories.product_index.astype(np.int64)
    users = histories.users_of_rows()
    found, weights = [], []
    for step in range(1, steps + 1):
        first, second = products[:-step], products[step:]
        follows = (users[step:] == users[:-step]) & (first != second)
        found.append((np.minimum(first, second) * product_count + np.maximum(first, second))[follows])
        weights.append(np.full(len(found[-1]), 1 / step))
    keys, place = np.unique(np.concatenate(found), return_inverse=True)
    counts = np.bincount(place, np.concatenate(weights), len(keys))
    low, high = np.divmod(keys, product_count)
    ends = np.concatenate([low, high])
    order = np.lexsort((np.tile(keys, 2), -np.tile(counts, 2), ends))
    degree = np.bincount(ends, minlength=product_count)
    starts = np.cumsum(degree) - degree
    rank = np.arange(len(ends)) - starts[ends[order]]
    keep = np.zeros(len(keys), np.bool_)
    keep[order[rank < most] % len(keys) if len(keys) else order] = True
    return low[keep], high[keep], counts[keep].astype(np.float32)


def _row_sums(relation: Relation, nodes: Tensor) -> Tensor:
    """Return the rows of Â h that are not zero, `[M, d]`, in the precision of `nodes [N, d]`; sums are float32."""
    weight = relation.normalised_half if nodes.dtype == torch.bfloat16 else relation.normalised
    return F.embedding_bag(
        relation.neighbours,
        nodes,
        relation.row_offsets,
        mode="sum",
        per_sample_weights=weight,
        include_last_offset=True,
    )


def _add_rows(total: Tensor, relation: Relation, part: Tensor, weight: float) -> None:
    """Add `weight · part` to the relation's rows of `total [N, d]`."""
    if len(part) == len(total):
        total.add_(part, alpha=weight)
    else:
        total.index_add_(0, relation.rows, part.to(total.dtype), alpha=weight)


class _RelationWeightedSum(torch.autograd.Function):
    """Σ_r α_r Â_r h with the symmetric backward of the module's docstring; keeps nothing but h and α."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, alpha: Tensor, relations: tuple[Relation, ...], half: bool) -> Tensor:
        ctx.save_for_backward(nodes, alpha)
        ctx.relations, ctx.half = relations, half
        result = torch.zeros_like(nodes)
        low = nodes.bfloat16() if half else nodes
        for relation, weight in zip(relations, alpha.tolist(), strict=True):
            if len(relation.neighbours):
                _add_rows(result, relation, _row_sums(relation, low), weight)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        nodes, alpha = ctx.saved_tensors
        nodes_gradient, alpha_gradient = torch.zeros_like(nodes), torch.zeros_like(alpha)
        low = gradient.bfloat16() if ctx.half else gradient.contiguous()
        for row, (relation, weight) in enumerate(zip(ctx.relations, alpha.tolist(), strict=True)):
            if not len(relation.neighbours):
                continue
            part = _row_sums(relation, low)
            _add_rows(nodes_gradient, relation, part, weight)
            met = nodes if len(part) == len(nodes) else nodes.index_select(0, relation.rows)
            alpha_gradient[row] = torch.dot(part.to(met.dtype).view(-1), met.view(-1))
        return nodes_gradient, alpha_gradient, None, None


def propagate(nodes: Tensor, alpha: Tensor, relations: tuple[Relation, ...], *, half: bool = False) -> Tensor:
    """Do one round of propagation: Σ_r α_r Â_r h.

    Args:
        nodes: `[N, d]` float32.
        alpha: `[R]` weight of each relation.
        relations: R relations over the N nodes.
        half: read neighbours as bf16, and round a node's sum over one relation to it.

    Returns:
        `[N, d]`, differentiable in `nodes` and `alpha`.
    """
    result: Tensor = _RelationWeightedSum.apply(nodes, alpha, relations, half)
    return result
