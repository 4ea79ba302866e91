"""The encoder as it learns: what is free, at which step size, and how texts go through it.

- *full*: everything.
- *last*: the last n layers.
- *lora*: W + (α / r) B A for the linear maps W of the last n layers, only A and B learn (Hu et al. 2021,
  arXiv:2106.09685, by peft); merged into W when it is saved.

Step sizes fall by a factor for each layer further down (Howard and Ruder 2018, arXiv:1801.06146). What the layers below
the free ones make of a text does not change: it is computed once (model.finetune.layers), and a step costs the free
layers only.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kg.errors import MissingExtraError
from model.config import FinetuneConfig, TextConfig
from model.errors import ModelError
from model.finetune.layers import Int64s, LayerStack, LowerLayers, find_layers
from model.text import batches_of_equal_work, encoder_folder, load_encoder, pooled, precision_of


class LearningEncoder:
    """An encoder over a fixed list of texts.

    Args:
        text: which encoder, and how it reads.
        config: what learns.
        texts: the N texts.
        device: where it computes.

    Raises:
        ModelError: the encoder can't be loaded, or its layers can't be told apart.
        MissingExtraError: LoRA without peft.
    """

    def __init__(self, text: TextConfig, config: FinetuneConfig, texts: Sequence[str], device: torch.device) -> None:
        self._text, self._config, self._device = text, config, device
        self._half = precision_of(text, device) == torch.bfloat16
        self._tokenizer, self._model = load_encoder(text, torch.float32)
        self._pad = self._tokenizer.pad_token_id or 0
        self._tokens: list[list[int]] = self._tokenizer(list(texts), truncation=True, max_length=text.max_tokens)[
            "input_ids"
        ]
        self._lengths = np.array([len(ids) for ids in self._tokens], np.int64)
        self._lora: Any = None
        self._model.requires_grad_(config.method == "full")
        if pooler := getattr(self._model, "pooler", None):  # features are means of tokens: nothing flows through it
            pooler.requires_grad_(False)
        stack = find_layers(self._model)
        first = max(0, len(stack.blocks) - (config.layers or len(stack.blocks))) if config.method != "full" else 0
        if config.method == "last":
            stack.blocks[first:].requires_grad_(True)
        elif config.method == "lora":
            stack = self._with_lora(stack, first)
        if config.gradient_checkpointing:
            model = self._model  # transformers 5 says activation_, 4 gradient_
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self._model.to(device)
        free = [(name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad]
        self._free = [(stack.depth(name), weight) for name, weight in free]
        self._lower: LowerLayers | None = None
        if config.method != "full":
            self._lower = self._keep_lower(stack, first)

    @property
    def width(self) -> int:
        """The number of features of a text."""
        return int(self._model.config.hidden_size)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns, in a fixed order."""
        return [weight for _, weight in self._free]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what learns as groups of an optimizer, each with its step size `lr` and its `weight_decay`."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for depth, weight in self._free:
            rate = self._config.learning_rate * self._config.layer_decay**depth
            decay = self._config.weight_decay if weight.ndim > 1 else 0.0  # neither biases nor norms
            groups.setdefault((rate, decay), []).append(weight)
        return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]

    def train(self, learning: bool) -> None:
        """Switch dropout on or off."""
        self._model.train(learning)

    def __call__(self, rows: Int64s) -> Tensor:
        """Return unit-length features `[n, width]` of some of the texts, with gradient."""
        mask = self._mask(rows)
        if self._lower is not None:
            self._lower.give(rows, mask)
        return pooled(self._hidden(rows, mask), mask)

    @torch.no_grad()
    def encode_all(self) -> Tensor:
        """Return the features of all texts `[N, width]`, without dropout."""
        self.train(False)
        result = torch.empty(len(self._tokens), self.width, device=self._device)
        for rows in self._batches():
            result[torch.from_numpy(rows).to(self._device)] = self(rows)
        return result

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer into a folder, as any Hugging Face encoder; LoRA is merged."""
        if self._lower is not None:
            self._lower.restore()
        try:
            model = self._model if self._lora is None else copy.deepcopy(self._lora).merge_and_unload()
            model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
        finally:
            if self._lower is not None:
                self._lower.cut()

    def _mask(self, rows: Int64s) -> Tensor:
        """Return which places of the rows, padded to the longest of them, hold a token `[n, T]`."""
        lengths = torch.from_numpy(self._lengths[rows]).to(self._device)
        return torch.arange(int(lengths.max()), device=self._device) < lengths[:, None]

    def _hidden(self, rows: Int64s, mask: Tensor) -> Tensor:
        """Return what the model makes of each token `[n, T, width]`."""
        length = mask.shape[1]
        ids = torch.tensor([self._tokens[row] + [self._pad] * (length - len(self._tokens[row])) for row in rows])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            hidden: Tensor = self._model(input_ids=ids.to(self._device), attention_mask=mask.long()).last_hidden_state
        return hidden

    def _batches(self) -> list[Int64s]:
        return batches_of_equal_work(self._lengths.tolist(), self._text.batch_tokens)

    def _with_lora(self, stack: LayerStack, first: int) -> LayerStack:
        try:
            from peft import LoraConfig, get_peft_model
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "LoRA needs the package peft", "pip install '.[train]' in kgrank's clone"
            ) from error
        targets = [
            f"{stack.name}.{row}.{name}"
            for row in range(first, len(stack.blocks))
            for name, module in stack.blocks[row].named_modules()
            if isinstance(module, nn.Linear)
        ]
        described = LoraConfig(
            r=self._config.lora_rank,
            lora_alpha=self._config.lora_alpha,
            lora_dropout=self._config.lora_dropout,
            target_modules=targets,
            bias="none",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is being renamed
            self._lora = get_peft_model(self._model, described)
        self._model = self._lora.get_base_model()
        return find_layers(self._model)

    @torch.no_grad()
    def _keep_lower(self, stack: LayerStack, first: int) -> LowerLayers | None:
        """Compute what stands still, once; None where there is nothing, no room, or the model can't be cut."""
        room = self._config.lower_cache_mib * 2**20
        kind = torch.bfloat16 if self._half else torch.float32
        lower = LowerLayers(stack, first, self._lengths, self.width, kind, self._device)
        if lower.size_bytes > room or not lower.can_cut:
            return None
        self.train(False)
        example = np.argsort(-self._lengths, kind="stable")[:1]
        whole = pooled(self._hidden(example, self._mask(example)), self._mask(example))
        lower.open()
        for rows in self._batches():
            mask = self._mask(rows)
            lower.take(rows, mask, self._hidden(rows, mask))
        lower.cut()
        lower.give(example, self._mask(example))
        again = pooled(self._hidden(example, self._mask(example)), self._mask(example))
        if float((whole * again).sum()) < _SAME:  # a model with something between embeddings and layers, or after them
            lower.restore()
            return None
        return lower


_SAME = 0.999
"""Cosine between features of the whole model and of the cut one, below which it is not cut: bf16 keeps .9999."""


def encoder_width(text: TextConfig) -> int:
    """Return how many features an encoder gives, without loading its weights.

    Raises:
        ModelError: there is no such encoder.
    """
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(encoder_folder(text.encoder)).hidden_size)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"text encoder {text.encoder!r} can't be loaded: {str(error).splitlines()[0]}",
            "Set model.text.encoder to a folder with a Hugging Face model, or leave it out for the built-in one.",
        ) from error
