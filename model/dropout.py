"""Dropout that costs little on a processor: torch draws a float for every feature there, a quarter of a training step.

Here 16 random bits decide on a feature, so the share dropped is the nearest multiple of 1/65536; what stays is scaled
by that share exactly. Elsewhere it is torch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


class Dropout(nn.Module):
    """As `torch.nn.Dropout`; draws from torch's global generator.

    Args:
        rate: share of features dropped while training, below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` with a share of them zero and the rest scaled up, while training."""
        if not self.training or not self.rate:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.rate)
        dropped: Tensor = _DropByBits.apply(values, round(self.rate * _LEVELS))
        return dropped


class _DropByBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dropped_levels: int) -> Tensor:
        count = values.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[:count].view(values.shape)
        kept_levels = max(_LEVELS - dropped_levels, 1)
        factor = (bits >= dropped_levels - _LEVELS // 2).to(values.dtype).mul_(_LEVELS / kept_levels)
        ctx.save_for_backward(factor)
        return values * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None
