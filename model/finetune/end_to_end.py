"""End to end: the ranking network and the encoder learn from the same loss.

The texts of a batch's products, what its users had and what they are asked for, are read anew with gradient; all other
nodes of the graph stand with the features they had when they were read last, which every epoch renews. A step reads
`batch_products` texts at most, drawn anew where a batch has more. What comes out is an encoder: the network that is
kept is trained on its features afterwards, as on those of any other encoder. It takes a GPU to be worth while; on a
processor it gives the same, slowly.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kg.snapshot import Snapshot
from model.batches import batches, count_batches, nothing_to_learn
from model.config import FinetuneConfig, ModelConfig, TrainConfig
from model.finetune.objective import Batch
from model.finetune.text_ranking import Quality, cold_part
from model.loss import batch_loss
from model.network import RankingNetwork
from model.popularity import product_statistics
from model.precision import learns_in_bf16
from model.product_graph import product_graph
from model.scorer import fit_text_kernel
from model.splits import Case, Split
from model.train import assemble, validation_ndcg


class EndToEnd:
    """An `Objective`: the ranking loss.

    Args:
        snapshot: products, nodes and facts.
        split: its training histories are learned from.
        model: the network.
        train: batches, objective and step size of the network.
        config: how many texts a step reads.
        validation: the case that epochs are chosen by.
        text_width: width of the encoder's features.
        device: where it computes.

    Raises:
        ModelError: nothing to learn from.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        split: Split,
        model: ModelConfig,
        train: TrainConfig,
        config: FinetuneConfig,
        validation: Case,
        text_width: int,
        device: torch.device,
    ) -> None:
        self._histories, self._train, self._config = split.train, train, config
        self._model, self._device = model, device
        self._graph = product_graph(snapshot, split.train, model)
        names = list(self._graph.relations)
        self._network = RankingNetwork(model, text_width, len(self._graph), names).to(device)
        self._relations = self._graph.relations_of(names, device)
        self._identity = torch.arange(len(self._graph), device=device)
        self._validation = validation
        self._cold = cold_part(validation, split.train, config.cold_interactions)
        now_ms = int(validation.now_ms.max())
        self._statistics = product_statistics(
            split.train, now_ms, model.popularity_half_life_days, self._graph.product_count
        )
        if not self.steps():
            raise nothing_to_learn(train)

    @property
    def texts(self) -> list[str]:
        """The texts of the graph's N nodes, products first."""
        return self._graph.texts

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network's parameters, at the step size of its own training."""
        rate, decay = self._train.learning_rate, self._train.weight_decay
        return [{"params": list(self._network.parameters()), "lr": rate, "weight_decay": decay}]

    def steps(self) -> int:
        """Return the steps of an epoch: every user once."""
        return count_batches(self._histories, self._train)

    def batches(self, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield the ranker's batches, each with the products whose texts it reads."""
        self._network.train()
        count = self._graph.product_count
        for batch in batches(self._histories, count, self._model, self._train, generator):
            width = batch.events.product.shape[1]
            had = batch.events.product[torch.arange(width) < batch.events.length[:, None]]
            live = np.unique(torch.cat([had, batch.target_product]).numpy())
            if len(live) > self._config.batch_products:
                live = np.sort(generator.choice(live, self._config.batch_products, replace=False))
            yield Batch(live, batch.to(self._device))

    def loss(self, batch: Batch, live: Tensor, memory: Tensor) -> Tensor:
        """Return the ranker's loss of a batch, a scalar; shapes as in `Objective.loss`."""
        text = memory.index_copy(0, torch.from_numpy(batch.live).to(memory.device), live)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=learns_in_bf16(self._device)):
            return batch_loss(
                self._network, text, self._identity, self._relations, self._graph.product_count, batch.question
            )

    def quality(self, features: Tensor) -> Quality:
        """Return how well the network ranks on these features."""
        text = features.float().cpu()
        kernel = fit_text_kernel(text[: self._graph.product_count], 0)
        model = assemble(self._network, text.numpy(), self._graph, self._statistics, kernel)
        cold = validation_ndcg(model, self._cold) if len(self._cold) else None
        return Quality(validation_ndcg(model, self._validation), cold)
