"""Contrastive learning: texts of products that belong together come close, all others move away.

    s_ab = t_a · t_b / τ
    loss = − mean_a Σ_{b ∈ B(a)} share_ab log ( e^{s_ab} / (e^{s_ab} + Σ_{n ∉ B(a), n ≠ a} e^{s_an}) )

InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) with several right answers (Khosla et al. 2020, arXiv:2004.11362),
B(a) all products that are known to belong to a, so that none of them is ever a negative. Negatives are the batch's
other products and, with `memory_products`, the cached features of the rest of the catalogue (Wang et al. 2020,
cross-batch memory, arXiv:1912.06798): they cost one matrix product, no encoding. The cache is renewed by every batch
for its products, and after every epoch for all.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from kg.snapshot import Snapshot
from model.config import FinetuneConfig, ModelConfig
from model.errors import ModelError
from model.finetune.objective import Batch
from model.finetune.pairs import positive_pairs
from model.finetune.text_ranking import Quality, TextRanker, cold_part, quality
from model.splits import Case, Split

Int64s = npt.NDArray[np.int64]

_LOWEST_TEMPERATURE = 0.01
"""A learned temperature stays above it, as in CLIP (Radford et al. 2021, arXiv:2103.00020)."""


class Contrastive:
    """An `Objective`: pairs of the graph.

    Args:
        snapshot: products and facts.
        split: its training histories make pairs.
        model: which relations may be seen, and how validation weighs a history.
        config: pairs, negatives, temperature.
        validation: the case that epochs are chosen by.

    Raises:
        ModelError: there is no pair.
    """

    def __init__(
        self, snapshot: Snapshot, split: Split, model: ModelConfig, config: FinetuneConfig, validation: Case
    ) -> None:
        self._texts: list[str] = snapshot.catalogue["text"].to_pylist()
        self._config, self._model = config, model
        drawn = np.random.default_rng([config.seed, 0])
        self._pairs = positive_pairs(snapshot, split.train, model.exclude_relations, config, drawn)
        self._anchors = np.flatnonzero(np.diff(self._pairs.indptr))
        if not len(self._anchors):
            raise ModelError("no two products belong together: there is nothing to fine-tune on", "Load interactions.")
        self._validation = validation
        self._cold = cold_part(validation, split.train, config.cold_interactions)
        start = torch.tensor(math.log(config.temperature))
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)

    @property
    def texts(self) -> list[str]:
        """The texts of the P products."""
        return self._texts

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the temperature, if it learns."""
        return [{"params": [self.log_temperature], "weight_decay": 0.0}] if self._config.learn_temperature else []

    def steps(self) -> int:
        """Return the steps of an epoch: every product that has a pair is an anchor once."""
        return -(-len(self._anchors) // self._per_step)

    def batches(self, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield anchors and cached products to compare them with.

        Where not all of the catalogue is cached, each anchor brings one product that belongs to it, drawn by weight.
        """
        order = generator.permutation(self._anchors)
        for start in range(0, len(order), self._per_step):
            live = np.sort(order[start : start + self._per_step])
            if not self._all_cached:
                live = np.unique(np.concatenate([live, _drawn_by_weight(self._pairs, live, generator)]))
            yield Batch(live, self._keys(live, generator))

    @property
    def _all_cached(self) -> bool:
        return self._config.memory_products >= len(self._texts)

    @property
    def _per_step(self) -> int:
        return self._config.batch_products if self._all_cached else max(1, self._config.batch_products // 2)

    def _keys(self, live: Int64s, generator: np.random.Generator) -> Int64s:
        """Return the products that the batch is compared with: its own, and cached ones."""
        others = np.setdiff1d(np.arange(len(self._texts)), live, assume_unique=True)
        if self._config.memory_products < len(others):
            others = generator.choice(others, self._config.memory_products, replace=False)
        return np.concatenate([live, others])

    def loss(self, batch: Batch, live: Tensor, memory: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar; shapes as in `Objective.loss`."""
        keys: Int64s = batch.question
        cached = memory[torch.from_numpy(keys[len(batch.live) :]).to(memory.device)]
        temperature = self.log_temperature.exp().clamp(min=_LOWEST_TEMPERATURE)
        right = self._pairs[batch.live][:, keys].tocoo()
        return masked_info_nce(live, torch.cat([live, cached]), right, temperature.to(live.device))

    def quality(self, features: Tensor) -> Quality:
        """Return how well text alone ranks."""
        ranker = TextRanker(features.cpu(), self._model.text_decay, self._model.history_length)
        return quality(ranker, self._validation, self._cold)


def masked_info_nce(anchors: Tensor, keys: Tensor, right: sparse.coo_matrix, temperature: Tensor) -> Tensor:
    """Return the loss of the module's docstring, a scalar.

    Args:
        anchors: `[A, W]` unit vectors.
        keys: `[K, W]` unit vectors, the first A of them the anchors themselves.
        right: `[A, K]` how much each key belongs to each anchor; nothing where it doesn't.
        temperature: τ, a scalar.
    """
    row = torch.from_numpy(right.row.astype(np.int64)).to(anchors.device)
    column = torch.from_numpy(right.col.astype(np.int64)).to(anchors.device)
    share = torch.from_numpy(right.data.astype(np.float32)).to(anchors.device)
    total = share.new_zeros(len(anchors)).index_add(0, row, share)
    logits = anchors @ keys.T / temperature  # [A, K]
    of_right = logits[row, column]
    itself = torch.arange(len(anchors), device=anchors.device)
    lowest = torch.finfo(logits.dtype).min
    negatives = logits.index_put((row, column), logits.new_tensor(lowest)).index_put(
        (itself, itself), logits.new_tensor(lowest)
    )
    against = F.softplus(negatives.logsumexp(1)[row] - of_right)  # −log(e^s / (e^s + Σ e^negatives))
    return (against * share / total[row]).sum() / (total > 0).sum().clamp(min=1)


def _drawn_by_weight(pairs: sparse.csr_matrix, rows: Int64s, generator: np.random.Generator) -> Int64s:
    """Draw one column of each row, by weight; every row has one."""
    chosen = pairs[rows]
    reached = np.cumsum(chosen.data, dtype=np.float64)
    ends = reached[chosen.indptr[1:] - 1]
    starts = np.concatenate([[0.0], ends[:-1]])
    place = np.searchsorted(reached, starts + generator.random(len(rows)) * (ends - starts), side="right")
    return np.asarray(chosen.indices[np.clip(place, chosen.indptr[:-1], chosen.indptr[1:] - 1)], np.int64)
