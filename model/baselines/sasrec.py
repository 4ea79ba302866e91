"""SASRec with sampled softmax: a causal transformer over the history (Kang and McAuley 2018, arXiv:1808.09781).

    h = blocks(E[i_1..i_n] · sqrt(d) + position from the end),     score(u, p) = h_n · E[p]

trained at every position for what follows, against negatives drawn evenly from the catalogue and shared by a batch:

    loss = −log( exp(h_t·e_next) / (exp(h_t·e_next) + Σ_{j drawn, j ≠ next} exp(h_t·e_j)) )

This is the recipe of eSASRec (Tikhonovich et al. 2025, arXiv:2508.06450), whose authors publish theirs:
https://github.com/blondered/transformer_benchmark. `gated` takes their LiGR blocks, x + σ(W x) ⊙ f(norm x) with SwiGLU;
without, the blocks are SASRec's. They draw negatives for each position; shared ones cost a fraction. The default has
another width, a shorter patience and more negatives than they have on Amazon Beauty.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.space import Axis, Choice, Real, Whole
from model.ranker import Ranker

Float32s = npt.NDArray[np.float32]


class SasRecConfig(BaseModel):
    """The network and its training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: int = Field(128, ge=8, le=2048, description="length of a vector")
    blocks: int = Field(1, ge=1, le=16, description="transformer blocks")
    heads: int = Field(1, ge=1, le=64, description="heads of each block")
    gated: bool = Field(False, description="LiGR blocks instead of SASRec's")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of features dropped while training")
    history_length: int = Field(50, ge=1, le=2048, description="last interactions that are read")
    negatives: int = Field(512, ge=1, le=100_000, description="products drawn for each batch")
    batch_users: int = Field(128, ge=1, le=65_536, description="histories in a training step")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="step size of Adam")
    epochs: int = Field(200, ge=1, le=10_000, description="passes over the histories at most")
    patience: int = Field(10, ge=1, le=1000, description="epochs without a better validation NDCG@10 before stopping")

    @model_validator(mode="after")
    def _heads_divide_the_dimension(self) -> "SasRecConfig":
        if self.dimension % self.heads:
            raise ValueError(f"dimension {self.dimension} is not a multiple of heads {self.heads}")
        return self


GRID = (SasRecConfig(),)
SPACE: Mapping[str, Axis] = {
    "dimension": Choice((64, 128, 256)),
    "blocks": Whole(1, 2),
    "gated": Choice((False, True)),
    "dropout": Real(0.1, 0.5),
    "learning_rate": Real(3e-4, 3e-3, log=True),
}


class Block(nn.Module):
    """Causal attention, then a feed-forward layer, each added to what came in. Shapes: `[B, T, d]` to the same."""

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__()
        width = config.dimension
        self.heads, self.dropout, self.gated = config.heads, config.dropout, config.gated
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = 4 * width if self.gated else width
        self.widen, self.narrow = nn.Linear(width, (2 if self.gated else 1) * hidden), nn.Linear(hidden, width)
        self.gate_in = nn.Linear(width, width) if self.gated else None
        self.gate_out = nn.Linear(width, width) if self.gated else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the next layer's states. Histories are padded at their end, so being causal is mask enough."""
        mixed = self._dropped(self.mix(self._attend(self.norm_in(x))))
        x = x + (mixed if self.gate_in is None else torch.sigmoid(self.gate_in(x)) * mixed)
        widened = self.widen(self.norm_out(x))
        if self.gate_out is None:
            return x + self._dropped(self.narrow(self._dropped(F.relu(widened))))
        value, swish = widened.chunk(2, dim=-1)
        return x + torch.sigmoid(self.gate_out(x)) * self._dropped(self.narrow(self._dropped(F.silu(swish) * value)))

    def _attend(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, T, d / heads]
        attended = F.scaled_dot_product_attention(
            split[0], split[1], split[2], is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        return attended.transpose(1, 2).flatten(2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class SasRec(nn.Module):
    """Product vectors and the transformer that reads them.

    Shapes: products `[B, T]` padded at the end with P, lengths `[B]`; states `[B, T, d]`.
    """

    def __init__(self, config: SasRecConfig, product_count: int) -> None:
        super().__init__()
        self.config = config
        self.product = nn.Embedding(product_count + 1, config.dimension, padding_idx=product_count)
        self.position = nn.Embedding(config.history_length, config.dimension)  # 0 is the last interaction
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dimension)
        for embedding in (self.product, self.position):
            nn.init.xavier_normal_(embedding.weight)
        with torch.no_grad():
            self.product.weight[product_count] = 0

    def forward(self, products: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each interaction."""
        back = (lengths[:, None] - 1 - torch.arange(products.shape[1], device=products.device)).clamp(min=0)
        x = self.product(products) * self.config.dimension**0.5 + self.position(back)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.norm(x)
        return states


class SasRecRanker:
    """A trained network as a ranker."""

    name = "sasrec"

    def __init__(self, network: SasRec) -> None:
        self.network = network

    @torch.inference_mode()
    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Read each history and return its last state's product with all products `[B, P]`."""
        vectors = self.network.product.weight[:-1]
        products, lengths = padded(histories, self.network.config.history_length, len(vectors))
        states = self.network(products, lengths)
        last = states[torch.arange(len(states)), (lengths - 1).clamp(min=0)]
        scores: Float32s = (last @ vectors.T).numpy()
        return scores


def fit(data: FitData, config: SasRecConfig) -> Ranker:
    """Train until validation no longer gains."""
    from model.baselines.sasrec_training import train

    return popular_when_cold(SasRecRanker(train(data, config)), data)


def padded(histories: Histories, length: int, product_count: int) -> tuple[Tensor, Tensor]:
    """Return each history's last `length` products, oldest first, padded at the end `[B, T]`, and lengths `[B]`."""
    lengths = np.minimum(np.diff(histories.offsets), length)
    places = np.arange(max(int(lengths.max(initial=0)), 1))
    inside = places < lengths[:, None]
    products = np.full(inside.shape, product_count, np.int64)
    products[inside] = histories.product_index[((histories.offsets[1:] - lengths)[:, None] + places)[inside]]
    return torch.from_numpy(products), torch.from_numpy(lengths)
