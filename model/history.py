"""From a history to a user: attention pooling plus one causal transformer block.

    a_ij = softmax_j(q_i·k_j / √d + recency_{i−j} + type_j − softplus(w) log(1 + days between))      j ≤ i
    u_i  = normalise(c z_i + Σ_j a_ij z_j + block(z)_i)

The block is pre-norm self-attention with relative positions (Vaswani et al. 2017; Shaw et al. 2018; Kang and McAuley
2018, SASRec) and a feed-forward part. Its output projections start at zero, so that training begins at the pooling
alone and the block adds what helps (as in Bachlechner et al. 2021, ReZero, and Zhang et al. 2019, Fixup).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kg.snapshot import Histories
from kg.tables import CODES
from model.dropout import Dropout
from model.popularity import DAY_MS


@dataclass(frozen=True)
class RecentEvents:
    """The last L interactions of B users, oldest first, padded at the end.

    Shapes: `product [B, L]` int64, `type [B, L]` int64, `day [B, L]` float32 (days before the user's last one),
    `length [B]` int64.
    """

    product: Tensor
    type: Tensor
    day: Tensor
    length: Tensor

    def to(self, device: torch.device) -> "RecentEvents":
        """Return the same on another device."""
        return RecentEvents(self.product.to(device), self.type.to(device), self.day.to(device), self.length.to(device))


EncodeLast = Callable[[Tensor, RecentEvents], Tensor]
"""Vectors of products `[B, L, d]` and the interactions with them to users as known after the last `[B, d]`."""


def recent_events(histories: Histories, length: int) -> RecentEvents:
    """Return the last `length` interactions of each history."""
    stop = histories.offsets[1:]
    counts = np.minimum(np.diff(histories.offsets), length)
    width = max(1, int(counts.max(initial=0)))
    steps = np.arange(width)
    valid = steps < counts[:, None]
    rows = np.where(valid, (stop - counts)[:, None] + steps, 0)
    if not len(histories.product_index):
        zeros = torch.zeros(len(histories), width, dtype=torch.int64)
        return RecentEvents(zeros, zeros, zeros.float(), torch.zeros(len(histories), dtype=torch.int64))
    last_ms = histories.at_ms[np.maximum(stop - 1, 0)]
    day = (last_ms[:, None] - histories.at_ms[rows]) / DAY_MS
    return RecentEvents(
        product=torch.from_numpy(np.where(valid, histories.product_index[rows], 0).astype(np.int64)),
        type=torch.from_numpy(np.where(valid, histories.type[rows], 0).astype(np.int64)),
        day=torch.from_numpy(np.where(valid, day, 0).astype(np.float32)),
        length=torch.from_numpy(counts.astype(np.int64)),
    )


class HistoryEncoder(nn.Module):
    """User vectors from the vectors of the products in a history.

    Args:
        dimension: width d.
        heads: attention heads of the block.
        length: longest history L.
        dropout: share of features dropped while training.
    """

    def __init__(self, dimension: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.last_weight = nn.Parameter(torch.ones(()))
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.recency = nn.Parameter(torch.zeros(length, 1))
        self.type_bias = nn.Parameter(torch.zeros(len(CODES), 1))
        self.time_decay = nn.Parameter(torch.tensor(-4.0))  # softplus: about .02 per log-day
        self.type_embedding = nn.Parameter(torch.zeros(len(CODES), dimension))
        self.norm_attention = nn.LayerNorm(dimension)
        self.project_in = nn.Linear(dimension, 3 * dimension)
        self.relative = nn.Parameter(torch.zeros(length, heads))
        self.project_out = nn.Linear(dimension, dimension)
        self.norm_feed = nn.LayerNorm(dimension)
        self.feed_in = nn.Linear(dimension, 2 * dimension)
        self.feed_out = nn.Linear(2 * dimension, dimension)
        for zeroed in (self.project_out, self.feed_out):
            nn.init.zeros_(zeroed.weight)
            nn.init.zeros_(zeroed.bias)

    def forward(self, products: Tensor, events: RecentEvents, *, last_only: bool = False) -> Tensor:
        """Encode.

        Args:
            products: `[B, L, d]` vectors of `events.product`.
            events: the interactions.
            last_only: answer for the last interaction of each user instead of all of them.

        Returns:
            Unit vectors `[B, L, d]`, the user as known after each interaction (`[B, 1, d]` with `last_only`); zeros
            for a user without any.
        """
        batch, width, dimension = products.shape
        valid = torch.arange(width, device=products.device) < events.length[:, None]  # [B, L]
        if last_only:
            place = (events.length - 1).clamp(min=0)[:, None]  # [B, 1]
        else:
            place = torch.arange(width, device=products.device).expand(batch, width)  # [B, Q]
        at_place = place[..., None].expand(-1, -1, dimension)
        back = place[:, :, None] - torch.arange(width, device=products.device)  # [B, Q, L] steps back
        visible = (back >= 0) & valid[:, None, :]
        back = back.clamp(min=0)

        last = products.gather(1, at_place)  # [B, Q, d]
        days = (events.day[:, None, :] - events.day.gather(1, place)[:, :, None]).clamp(min=0)
        # Look-ups as embeddings: the backward of plain indexing adds in no fixed order, and results would drift.
        recency = F.embedding(back, self.recency)[..., 0]
        kind = F.embedding(events.type, self.type_bias)[..., 0]
        bias = recency + kind[:, None, :] - F.softplus(self.time_decay) * days.log1p()
        attention = self.query(last) @ self.key(products).transpose(1, 2) * dimension**-0.5 + bias
        pooled = _masked_softmax(attention, visible) @ products

        inputs = products + F.embedding(events.type, self.type_embedding)
        normed = self.dropout(self.norm_attention(inputs))
        block_in = inputs.gather(1, at_place)
        block = block_in + self.dropout(self._attend(normed, normed.gather(1, at_place), back, visible))
        block = block + self.dropout(self.feed_out(F.gelu(self.feed_in(self.norm_feed(block)))))
        user = self.last_weight * last + pooled + (block - block_in)
        return F.normalize(user, dim=-1) * (events.length > 0)[:, None, None]

    def last(self, products: Tensor, events: RecentEvents) -> Tensor:
        """Return the users as known after their last interaction `[B, d]`; see `forward`."""
        users: Tensor = self(products, events, last_only=True)
        return users[:, 0]

    def _attend(self, inputs: Tensor, queries: Tensor, back: Tensor, visible: Tensor) -> Tensor:
        """Do multi-head attention of `queries [B, Q, d]` over `inputs [B, L, d]`."""
        dimension = inputs.shape[-1]
        weight, bias = self.project_in.weight, self.project_in.bias
        query = _split_heads(F.linear(queries, weight[:dimension], bias[:dimension]), self.heads)
        key, value = (
            _split_heads(part, self.heads)
            for part in F.linear(inputs, weight[dimension:], bias[dimension:]).chunk(2, dim=-1)
        )  # [B, H, L, d/H]
        scores = query @ key.transpose(-1, -2) * (dimension // self.heads) ** -0.5
        scores = scores + F.embedding(back, self.relative).permute(0, 3, 1, 2)
        mixed = _masked_softmax(scores, visible[:, None]) @ value  # [B, H, Q, d/H]
        attended: Tensor = self.project_out(mixed.transpose(1, 2).flatten(2))
        return attended


def _split_heads(values: Tensor, heads: int) -> Tensor:
    batch, length, width = values.shape
    return values.view(batch, length, heads, width // heads).transpose(1, 2)


def _masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over what is visible; zeros where nothing is (an empty history, never NaN)."""
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~visible, lowest).softmax(-1) * visible
