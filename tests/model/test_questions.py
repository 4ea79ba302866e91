import numpy as np
import torch

from kg.snapshot import Histories
from model.batches import batches
from model.config import ModelConfig, TrainConfig
from model.network import RankingNetwork
from model.questions import asked_users

PRODUCTS = 30


def histories(users: int) -> Histories:
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 12, users))])
    rows = int(offsets[-1])
    product = generator.integers(0, PRODUCTS, rows).astype(np.int32)
    at_ms = np.arange(rows, dtype=np.int64) * 3_600_000
    return Histories(offsets, product, generator.integers(0, 5, rows).astype(np.int8), at_ms, np.ones(rows, np.float32))


def test_groups_by_length_give_the_vectors_and_gradients_of_the_whole_batch() -> None:
    config = ModelConfig(dimension=16, history_length=8, dropout=0.0)
    torch.manual_seed(0)
    network = RankingNetwork(config, 8, PRODUCTS, [])
    for parameter in network.history.parameters():  # past the block's start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    (batch,) = batches(histories(150), PRODUCTS, config, TrainConfig(batch_users=200), np.random.default_rng(1))
    results = []
    for grouped in (False, True):
        products = torch.randn(PRODUCTS, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
        if grouped:
            asked = asked_users(network, products, batch)
        else:
            asked = network.users(products, batch.events).flatten(0, 1)[batch.question_step]
        (asked * torch.linspace(-1, 1, 16)).sum().backward()
        results.append((asked.detach(), products.grad))
    torch.testing.assert_close(results[1], results[0])
