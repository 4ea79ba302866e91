"""Training by epochs, until validation no longer gains where there is one; the best epoch is kept."""

import copy
import time
from collections.abc import Callable

import numpy as np
import torch

from model.case import Case
from model.checkpoint import EpochRecord
from model.metrics import per_user
from model.ranker import Ranker, rank

VALIDATION_USERS = 4000


def train_until_best(
    network: torch.nn.Module,
    train_epoch: Callable[[int], float],
    ranker: Callable[[], Ranker],
    validation: Case | None,
    *,
    epochs: int,
    patience: int,
    seed: int,
    on_epoch: Callable[[EpochRecord], None],
) -> None:
    """Train, and leave the network as it was after its best epoch.

    Args:
        network: what is trained.
        train_epoch: given the number of the epoch, from 1; returns its mean loss.
        ranker: makes a ranker of the network as it is.
        validation: what NDCG@10 is measured on, on at most 4,000 of its users; None: all epochs are taken.
        epochs: most of them.
        patience: epochs without a gain before it ends.
        seed: draws the users.
        on_epoch: called after every epoch that was measured.
    """
    if validation is None:
        network.train()
        for number in range(1, epochs + 1):
            train_epoch(number)
        network.eval()
        return
    if len(validation) > VALIDATION_USERS:
        chosen = np.random.default_rng(seed).choice(len(validation), VALIDATION_USERS, replace=False)
        validation = validation.take(np.sort(chosen))
    best, best_ndcg, best_state = 0, -1.0, copy.deepcopy(network.state_dict())
    for number in range(1, epochs + 1):
        began = time.monotonic()
        network.train()
        loss = train_epoch(number)
        network.eval()
        ranked = rank(ranker(), validation, 10)
        truth = (validation.truth_offsets, validation.truth_product_index)
        ndcg = float(per_user(ranked, *truth, (10,))["ndcg@10"].mean())
        on_epoch(EpochRecord(number, loss, ndcg, time.monotonic() - began))
        if ndcg > best_ndcg:
            best, best_ndcg, best_state = number, ndcg, copy.deepcopy(network.state_dict())
        if number - best >= patience:
            break
    network.load_state_dict(best_state)
    network.eval()
