"""Sampled softmax with the logQ correction, for catalogues too large to score whole in every step.

A step draws M products with replacement, half of them uniformly, half by popularity, and all its questions share them.
With e_j the expected and c_j the drawn count of product j,

    Z_q ≈ Σ_{p in E_q} exp l_qp + Σ_{j drawn, not in E_q} (c_j / e_j) exp l_qj

where E_q has the right products of a question and those with an offset of their own. Each e_j is known exactly, so the
estimate of Z is unbiased (Bengio and Senécal 2008; Yi et al. 2019), and a product that is right is never taken for a
wrong one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kg.snapshot import Histories
from model.config import TrainConfig
from model.softmax import Pairs, softmax_loss

FULL_SOFTMAX_PRODUCTS = 40_000
"""Up to so many products the whole catalogue is scored, unless negatives are asked for: from there its loss costs twice
that of the negatives (measured: docs/scale.md)."""

DEFAULT_NEGATIVES = 16_384
"""How many are drawn above."""


@dataclass(frozen=True)
class Negatives:
    """Drawn products, each once, ascending, with log(c / e); shapes `[M']`."""

    product: Tensor
    log_weight: Tensor

    def to(self, device: torch.device) -> "Negatives":
        """Return the same on another device."""
        return Negatives(self.product.to(device), self.log_weight.to(device))


@dataclass(frozen=True)
class NegativeSampler:
    """Draws negatives.

    Args:
        count: M.
        interactions: `[I]` products of the interactions that are trained on; one drawn evenly is one by popularity.
        expected: `[P]` how often each product is drawn on average.
    """

    count: int
    interactions: npt.NDArray[np.int32]
    expected: npt.NDArray[np.float64]

    def draw(self, generator: np.random.Generator) -> Negatives:
        """Draw the negatives of a step."""
        popular = self.count // 2
        uniformly = generator.integers(len(self.expected), size=self.count - popular)
        rows = generator.integers(len(self.interactions), size=popular)
        product, drawn = np.unique(np.concatenate([uniformly, self.interactions[rows]]), return_counts=True)
        log_weight = np.log(drawn / self.expected[product])
        return Negatives(torch.from_numpy(product), torch.from_numpy(log_weight.astype(np.float32)))


def negative_sampler(histories: Histories, product_count: int, config: TrainConfig) -> NegativeSampler | None:
    """Return what draws negatives, None where the whole catalogue is scored."""
    count = config.negatives or (0 if product_count <= FULL_SOFTMAX_PRODUCTS else DEFAULT_NEGATIVES)
    if not count or not len(histories.product_index):
        return None
    popular = count // 2
    share = np.bincount(histories.product_index, minlength=product_count) / len(histories.product_index)
    return NegativeSampler(count, histories.product_index, (count - popular) / product_count + popular * share)


class SoftmaxLoss(Protocol):
    """`model.softmax.softmax_loss`, or the same over what was drawn."""

    def __call__(
        self,
        users: Tensor,
        products: Tensor,
        targets: tuple[Tensor, Tensor, Tensor],
        *,
        scale: float,
        half: bool,
        column: Tensor | None = None,
        offset: Tensor | None = None,
        pairs: Pairs | None = None,
    ) -> Tensor:
        """Return the loss, a scalar."""


def softmax_over(negatives: Negatives | None) -> SoftmaxLoss:
    """Return the loss over drawn products, or over the whole catalogue where nothing was drawn."""
    return softmax_loss if negatives is None else partial(sampled_softmax_loss, negatives)


def sampled_softmax_loss(
    negatives: Negatives,
    users: Tensor,
    products: Tensor,
    targets: tuple[Tensor, Tensor, Tensor],
    *,
    scale: float,
    half: bool,
    column: Tensor | None = None,
    offset: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Tensor:
    """Return the loss with the drawn products in place of the catalogue; all else as in `softmax_loss`."""
    size = len(products)
    question, product, share = targets
    column = products.new_zeros(size) if column is None else column
    keys, exact = question * size + product, column.index_select(0, product)
    if pairs is not None and offset is not None:
        given = pairs[0] * size + pairs[1]
        alone = ~torch.isin(keys, given)
        keys, exact = torch.cat([given, keys[alone]]), torch.cat([offset, exact[alone]])
    keys, order = keys.sort()
    columns = torch.unique(torch.cat([negatives.product, keys % size]))
    correction = column.new_full((len(columns),), -torch.inf)  # nothing but their own pairs looks at the others
    correction[torch.searchsorted(columns, negatives.product)] = negatives.log_weight
    return softmax_loss(
        users,
        products.index_select(0, columns),
        (question, torch.searchsorted(columns, product), share),
        scale=scale,
        half=half,
        column=column.index_select(0, columns) + correction,
        offset=exact.index_select(0, order),
        pairs=(keys // size, torch.searchsorted(columns, keys % size)),
    )
