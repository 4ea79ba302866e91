"""The trained model as everything that ranks uses it: a product matrix, and user vectors from histories.

    score(u, p) = w_g u·z_p / τ + w_t Σ_j δ^age t_j·t_p + w_h repeat(u, p) + w_b popularity(p)

The matrix has z, the text features t (centred, reduced to principal components, unit length) and popularity side by
side; temperature and weights go into the user vectors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kg.snapshot import Histories
from model.history import recent_events
from model.network import RankingNetwork
from model.popularity import ProductStatistics
from model.repeat import Repeats, repeat_features
from model.scoring import GRAPH, POPULARITY, TEXT, UserVectors


@dataclass(frozen=True)
class Blend:
    """The weight of each component of the score, chosen on validation data."""

    graph: float = 1.0
    text: float = 0.0
    history: float = 1.0
    popularity: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the weights by component."""
        return asdict(self)


@dataclass(frozen=True)
class TextKernel:
    """How text features become the text component: centre, turn to principal components, unit length.

    Shapes: `mean [W]`, `axes [W, K]`.
    """

    mean: Tensor
    axes: Tensor

    def __call__(self, text: Tensor) -> Tensor:
        """Return `[N, K]` for text features `[N, W]`."""
        return F.normalize((text - self.mean) @ self.axes, dim=1)


def fit_text_kernel(text: Tensor, width: int) -> TextKernel:
    """Fit the principal components of text features `[N, W]`; fewer than `width` where the features have fewer."""
    mean = text.mean(0)
    centred = (text - mean).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes.flip(1)[:, :width]
    # An eigenvector's sign is arbitrary: fixed, so that equal data give equal bytes.
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return TextKernel(mean, (axes * largest.sign()).float().contiguous())


class TrainedModel:
    """A `ScoringModel`.

    Args:
        network: history encoder, repeat score and settings; not trained any more.
        products: `[P, d]` unit vectors of the products.
        text: `[P, K]` text component of the products; K is 0 when there is none.
        statistics: of the P products.
        blend: component weights.
    """

    def __init__(
        self, network: RankingNetwork, products: Tensor, text: Tensor, statistics: ProductStatistics, blend: Blend
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.blend = blend
        self.statistics = statistics
        columns = {GRAPH: products, TEXT: text, POPULARITY: torch.from_numpy(statistics.popularity)[:, None]}
        self._matrix = torch.cat(list(columns.values()), dim=1).contiguous()
        ends = np.cumsum([part.shape[1] for part in columns.values()]).tolist()
        self._blocks = {
            name: slice(end - part.shape[1], end) for (name, part), end in zip(columns.items(), ends, strict=True)
        }

    @property
    def matrix(self) -> Tensor:
        """The product matrix `[P, D]`."""
        return self._matrix

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Component name to its columns of `matrix`."""
        return self._blocks

    def with_blend(self, blend: Blend) -> "TrainedModel":
        """Return the same model with other component weights."""
        graph, text = (self._matrix[:, self._blocks[name]] for name in (GRAPH, TEXT))
        return TrainedModel(self.network, graph, text, self.statistics, blend)

    @torch.inference_mode()
    def encode_users(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> UserVectors:
        """Return the vectors of users given by their histories; see `ScoringModel`."""
        config, blend = self.network.config, self.blend
        events = recent_events(histories, config.history_length)
        rows = F.embedding(events.product, self._matrix)  # [B, L, D]
        user = self.network.history(rows[..., self._blocks[GRAPH]], events, last_only=True)[:, 0]
        back = events.length[:, None] - 1 - torch.arange(events.product.shape[1])  # [B, L]
        decay = torch.where(back >= 0, config.text_decay ** back.clamp(min=0), 0.0)
        kernel = (decay[:, None, :] @ rows[..., self._blocks[TEXT]])[:, 0]
        vectors = torch.cat(
            [
                user * (blend.graph / config.temperature),
                kernel * blend.text,
                torch.full((len(histories), 1), blend.popularity),
            ],
            dim=1,
        )
        if self.network.repeat is None:
            nothing = np.zeros(len(histories) + 1, np.int64)
            return UserVectors(vectors, nothing, np.empty(0, np.int32), np.empty(0, np.float32))
        repeats: Repeats = repeat_features(histories, now_ms, config.repeat_half_lives_days, self.statistics)
        score = self.network.repeat(torch.from_numpy(repeats.features)) * blend.history
        return UserVectors(vectors, repeats.offsets, repeats.product_index, score.numpy())
