"""The network: products from text, id and graph; users from their histories; the score of the two.

    x = fusion(text, id)                               model.fusion
    h^(0) = x,   h^(l+1) = Σ_r α_{l,r} Â_r h^(l)       model.graph
    z = normalise(Σ_l softmax(λ)_l h^(l))
    u = history(z of the last interactions)            model.history
    logits(u, p) = u·z_p / τ + repeat(u, p) + w_b popularity(p)

Users are never parameters. Product texts enter twice: here through W, and beside the network as the text component of
the score (model.scorer).
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.dropout import Dropout
from model.fusion import GatedFusion
from model.graph import Relation, propagate
from model.history import HistoryEncoder, RecentEvents
from model.precision import computes_in_bf16
from model.repeat import RepeatScore, feature_count

_ID_BESIDE_TEXT = 0.1


class RankingNetwork(nn.Module):
    """All that is learned by gradient.

    Args:
        config: the model's settings.
        text_width: width of text features.
        node_count: nodes with an id embedding.
        relation_names: the relations, in the order of their weights.
    """

    def __init__(self, config: ModelConfig, text_width: int, node_count: int, relation_names: list[str]) -> None:
        super().__init__()
        self.config = config
        self.relation_names = list(relation_names)
        self.identity = nn.Embedding(node_count, config.dimension)
        # Beside text, ids start small: what a product is like is known from the start, what is particular is learned.
        std = config.dimension**-0.5 * (_ID_BESIDE_TEXT if config.text_features else 1.0)
        nn.init.normal_(self.identity.weight, std=std)
        self.fusion = GatedFusion(
            text_width,
            config.dimension,
            config.id_dropout,
            use_text=config.text_features,
            use_id=config.id_features,
        )
        self.dropout = Dropout(config.dropout)
        self.relation_logit = nn.Parameter(torch.zeros(config.layers, len(relation_names)))
        self.layer_logit = nn.Parameter(torch.zeros(config.layers + 1))
        self.history = HistoryEncoder(config.dimension, config.heads, config.history_length, config.dropout)
        self.repeat = RepeatScore(feature_count(config.repeat_half_lives_days)) if config.repeat else None
        self.popularity_weight = nn.Parameter(torch.zeros(()))

    def nodes(self, text: Tensor, identity_index: Tensor, relations: tuple[Relation, ...]) -> Tensor:
        """Return the unit vectors of all nodes `[N, d]`.

        Args:
            text: `[N, text_width]` text features.
            identity_index: `[N]` row of the id embedding of each node, -1 for one that has none.
            relations: the edges over the N nodes, in the order of `relation_names`.
        """
        share = self.layer_logit.softmax(0)
        states = self.layers(text, identity_index, relations)
        total = share[0] * next(states)
        for layer, hidden in enumerate(states, 1):
            total = total + share[layer] * hidden
        return F.normalize(total, dim=1)

    def layers(self, text: Tensor, identity_index: Tensor, relations: tuple[Relation, ...]) -> Iterator[Tensor]:
        """Yield the states of all nodes `[N, d]` before, between and after the rounds of propagation; see `nodes`."""
        hidden = self.fused(text, identity_index)
        yield hidden
        propagate_once = self._propagation(half=self._half(text))
        for layer in range(self.config.layers):
            hidden = propagate_once(hidden, F.softplus(self.relation_logit[layer]), relations)
            yield hidden

    def fused(self, text: Tensor, identity_index: Tensor) -> Tensor:
        """Return what nodes are by themselves `[N, d]`: text and id, before any propagation; see `nodes`."""
        identity = self.identity(identity_index.clamp(min=0))
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self._half(text)):
            fused = self.fusion(text, identity, identity_index >= 0)
        hidden: Tensor = self.dropout(fused.float())
        return hidden

    def _half(self, text: Tensor) -> bool:
        return self.training and computes_in_bf16(text.device)

    def _propagation(self, *, half: bool) -> Callable[[Tensor, Tensor, tuple[Relation, ...]], Tensor]:
        if self.config.propagation == "fused":
            return partial(propagate, half=half)
        from model.message_passing import RelationPropagation

        return RelationPropagation()

    def users(self, products: Tensor, events: RecentEvents, *, last_only: bool = False) -> Tensor:
        """Return user vectors `[B, L, d]` (or `[B, 1, d]`) for product vectors `[P, d]`; see `HistoryEncoder`."""
        encoded: Tensor = self.history(F.embedding(events.product, products), events, last_only=last_only)
        return encoded

    def relation_weights(self) -> dict[str, float]:
        """Return how much each relation counts, averaged over the layers: what reasons are weighed by."""
        if not self.config.layers:
            return dict.fromkeys(self.relation_names, 0.0)
        weights = F.softplus(self.relation_logit.detach()).mean(0).tolist()
        return dict(zip(self.relation_names, weights, strict=True))
