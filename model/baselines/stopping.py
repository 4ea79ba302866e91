"""Training by epochs until validation no longer gains; the best epoch is kept."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from model.case import Case
from model.metrics import per_user
from model.ranker import Ranker, rank

VALIDATION_USERS = 4000


@dataclass(frozen=True)
class Epoch:
    """What an epoch reached.

    Args:
        number: from 1.
        loss: mean over its steps.
        validation_ndcg: NDCG@10.
        seconds: since training began, validation included.
    """

    number: int
    loss: float
    validation_ndcg: float
    seconds: float


OnEpoch = Callable[[Epoch], None]


def train_until_best(
    network: torch.nn.Module,
    train_epoch: Callable[[int], float],
    ranker: Callable[[], Ranker],
    validation: Case,
    *,
    epochs: int,
    patience: int,
    seed: int,
    on_epoch: OnEpoch = lambda epoch: None,
) -> list[Epoch]:
    """Train, and leave the network as it was after its best epoch.

    Args:
        network: what is trained.
        train_epoch: given the number of the epoch, from 1; returns its mean loss.
        ranker: makes a ranker of the network as it is.
        validation: what NDCG@10 is measured on, on at most 4,000 of its users.
        epochs: most of them.
        patience: epochs without a gain before it ends.
        seed: draws the users.
        on_epoch: called after every epoch.
    """
    if len(validation) > VALIDATION_USERS:
        chosen = np.random.default_rng(seed).choice(len(validation), VALIDATION_USERS, replace=False)
        validation = validation.take(np.sort(chosen))
    began = time.monotonic()
    done: list[Epoch] = []
    best, best_state = 0, copy.deepcopy(network.state_dict())
    for number in range(1, epochs + 1):
        network.train()
        loss = train_epoch(number)
        network.eval()
        ranked = rank(ranker(), validation, 10)
        ndcg = per_user(ranked, validation.truth_offsets, validation.truth_product_index, (10,))["ndcg@10"].mean()
        done.append(Epoch(number, loss, float(ndcg), time.monotonic() - began))
        on_epoch(done[-1])
        if best == 0 or ndcg > done[best - 1].validation_ndcg:
            best, best_state = number, copy.deepcopy(network.state_dict())
        if number - best >= patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return done
