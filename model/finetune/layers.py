"""The layers of an encoder, told apart; and those that don't learn, computed once for all texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.errors import ModelError

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayerStack:
    """Where an encoder has its layers.

    Args:
        model: the encoder.
        name: dotted name of the list of layers.
        blocks: the layers, lowest first.
    """

    model: nn.Module
    name: str
    blocks: nn.ModuleList

    def depth(self, parameter: str) -> int:
        """Return how far below the top layer a parameter is: 0 in it, the number of layers for the embeddings."""
        inside = parameter.removeprefix(f"{self.name}.")
        if inside != parameter:
            return len(self.blocks) - 1 - int(inside.partition(".")[0])
        return len(self.blocks) if "embeddings" in parameter else 0

    def replace(self, blocks: nn.ModuleList) -> None:
        """Let the model run through other layers."""
        parent, _, attribute = self.name.rpartition(".")
        setattr(self.model.get_submodule(parent), attribute, blocks)


def find_layers(model: Any) -> LayerStack:
    """Return the layers of a Hugging Face encoder: the list that has as many modules as the configuration says.

    Raises:
        ModelError: there is none (an encoder that shares one layer, say).
    """
    count = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return LayerStack(model, name, module)
    raise ModelError(
        f"encoder {type(model).__name__} has no list of {count} layers to fine-tune",
        "Choose a BERT-like encoder for model.text.encoder, or set finetune.method to none.",
    )


class LowerLayers:
    """What embeddings and lower layers make of each text, kept; the model is cut above them meanwhile.

    Args:
        stack: of the model.
        first: the first layer that learns; those below are cut off.
        lengths: `[N]` tokens of each text.
        width: features of a token.
        kind: how features are kept.
        device: where they are kept.
    """

    def __init__(
        self, stack: LayerStack, first: int, lengths: Int64s, width: int, kind: torch.dtype, device: torch.device
    ) -> None:
        self._stack, self._lengths = stack, lengths
        self._below, self._above = stack.blocks[:first], stack.blocks[first:]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._shape, self._kind, self._device = (int(self._starts[-1]), width), kind, device
        self._embeddings = getattr(stack.model, "embeddings", None)
        self._given = _Given()
        self._kept = torch.empty(0)

    @property
    def size_bytes(self) -> int:
        """How much memory they take."""
        return self._shape[0] * self._shape[1] * self._kind.itemsize

    @property
    def can_cut(self) -> bool:
        """Whether the model has embeddings that can be stood in for."""
        return isinstance(self._embeddings, nn.Module)

    def open(self) -> None:
        """Make room, and let the model run through the lower layers only."""
        self._kept = torch.empty(self._shape, dtype=self._kind, device=self._device)
        self._stack.replace(self._below)

    def take(self, rows: Int64s, mask: Tensor, hidden: Tensor) -> None:
        """Keep what the lower layers made of some texts: `hidden [n, T, width]`, `mask [n, T]`."""
        self._kept[self._places(rows, mask)[mask]] = hidden[mask].to(self._kind)

    def cut(self) -> None:
        """Let the model run through the upper layers only, from what `give` gave."""
        self._stack.replace(self._above)
        self._stack.model.embeddings = self._given

    def restore(self) -> None:
        """Make the model whole."""
        self._stack.replace(self._stack.blocks)
        self._stack.model.embeddings = self._embeddings  # type: ignore[assignment]  # a module: `can_cut`

    def give(self, rows: Int64s, mask: Tensor) -> None:
        """Set what the cut model reads next: some texts with the mask they are padded by."""
        places = torch.where(mask, self._places(rows, mask), 0)
        self._given.hidden = self._kept[places].float()

    def _places(self, rows: Int64s, mask: Tensor) -> Tensor:
        start = torch.from_numpy(self._starts[:-1][rows]).to(self._device)
        return start[:, None] + torch.arange(mask.shape[1], device=self._device)


class _Given(nn.Module):
    """Stands in for embeddings."""

    hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Return what was given."""
        assert self.hidden is not None
        return self.hidden
