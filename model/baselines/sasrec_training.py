"""How SASRec is trained: batches of histories of like length, and softmax over sampled products."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kg.snapshot import Histories
from model.baselines.contract import FitData
from model.baselines.sasrec import SasRec, SasRecConfig, SasRecRanker, padded
from model.baselines.stopping import train_until_best
from model.errors import ModelError
from model.threads import torch_threads

_SORTED_BATCHES = 32
"""Batches among which histories are sorted by length, so that little of a batch is padding."""


def train(data: FitData, config: SasRecConfig) -> SasRec:
    """Return a network, as it was after the best epoch on `data.validation`, or after all of them (`data.to_the_end`).

    Args:
        data: `known` is trained on; it must not hold the truth of a validation that is looked at.
        config: the network and its training.

    Raises:
        ModelError: no user has two interactions.
    """
    asked = np.flatnonzero(np.diff(data.known.offsets) >= 2)
    if not len(asked):
        raise ModelError("no user has two interactions to learn from", "Load more interactions.")
    histories = data.known.take(asked)
    with torch_threads(data.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        network = SasRec(config, data.product_count)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))

        def train_epoch(number: int) -> float:
            generator = np.random.default_rng([data.seed, number])
            total, steps = 0.0, 0
            for products, lengths in batches(histories, config, data.product_count, generator):
                negatives = torch.from_numpy(generator.integers(0, data.product_count, config.negatives))
                loss = sampled_softmax(network, products, lengths, negatives)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                optimizer.step()
                total, steps = total + float(loss.detach()), steps + 1
            return total / steps

        train_until_best(
            network,
            train_epoch,
            lambda: SasRecRanker(network),
            None if data.to_the_end else data.validation,
            epochs=config.epochs,
            patience=config.patience,
            seed=data.seed,
            on_epoch=lambda record: data.on_epoch(config, record),
        )
    return network


def batches(
    histories: Histories, config: SasRecConfig, product_count: int, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all histories in random batches: products `[B, T]`, one more than is read, and their lengths `[B]`."""
    order = generator.permutation(len(histories))
    lengths = np.diff(histories.offsets)
    chunk = config.batch_users * _SORTED_BATCHES
    parts = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        parts += [rows[at : at + config.batch_users] for at in range(0, len(rows), config.batch_users)]
    for part in generator.permutation(len(parts)):
        yield padded(histories.take(parts[part]), config.history_length + 1, product_count)


def sampled_softmax(network: SasRec, products: Tensor, lengths: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean loss of telling, at every position, the next product from the drawn ones.

    Shapes: products `[B, T]`, lengths `[B]`, negatives `[K]`.
    """
    states = network(products[:, :-1], lengths - 1)
    following = products[:, 1:]
    asked = torch.arange(following.shape[1]) < (lengths - 1)[:, None]
    states, right = states[asked], following[asked]  # [N, d], [N]
    positive = (states * network.product(right)).sum(dim=1, keepdim=True)  # [N, 1]
    negative = states @ network.product(negatives).T  # [N, K]
    negative = negative.masked_fill(right[:, None] == negatives, -torch.inf)
    return F.cross_entropy(torch.cat([positive, negative], dim=1), torch.zeros_like(right))
