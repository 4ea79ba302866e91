"""Gated fusion of what a node says (text) and which one it is (id).

    t = W f,   g = sigmoid(W_g [t ; e] + b_g),   x = g ⊙ t + (1 − g) ⊙ e        (gated unit, Arevalo et al. 2017,
                                                                                 arXiv:1702.01992)

While training, a share of the nodes loses its id (x = t), as in DropoutNet (Volkovs et al. 2017). So the network also
learns to rank products from text and facts alone, which is all there is of one that joined after training.

For ablations either input can be left out: x = t without ids; x = e without text, zero where there is no id; with
neither, e stays as it was drawn, so that only a node's place in the graph tells it from others.
"""

import torch
from torch import Tensor, nn


class GatedFusion(nn.Module):
    """Node features from text features and id embeddings.

    Args:
        text_width: width of a text feature.
        dimension: width d of the result.
        id_dropout: share of ids hidden while training.
        use_text: whether text features count.
        use_id: whether ids count, and are learned.
    """

    def __init__(
        self, text_width: int, dimension: int, id_dropout: float, *, use_text: bool = True, use_id: bool = True
    ) -> None:
        super().__init__()
        self.use_text, self.use_id = use_text, use_id
        self.project = nn.Linear(text_width, dimension)
        # A text of unit length stays one: with torch's default it would start at a third, below the noise of ids.
        nn.init.orthogonal_(self.project.weight, gain=max(1.0, text_width / dimension) ** 0.5)
        self.gate = nn.Linear(2 * dimension, dimension)
        self.id_dropout = id_dropout

    def forward(self, text: Tensor, identity: Tensor, has_identity: Tensor) -> Tensor:
        """Fuse.

        Args:
            text: `[N, text_width]`.
            identity: `[N, d]`, anything where there is none.
            has_identity: `[N]` bool.

        Returns:
            `[N, d]`.
        """
        projected: Tensor = self.project(text)
        if self.use_text and not self.use_id:
            return projected
        if not (self.use_text or self.use_id):
            return identity.detach() * has_identity[:, None]
        if self.training and self.id_dropout:
            has_identity = has_identity & (torch.rand(len(text), device=text.device) >= self.id_dropout)
        if not self.use_text:
            return identity * has_identity[:, None]
        gate = torch.sigmoid(self.gate(torch.cat([projected, identity], dim=1)))
        return torch.where(has_identity[:, None], gate * projected + (1 - gate) * identity, projected)
