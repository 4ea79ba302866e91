"""Softmax over the catalogue, with one right product or many."""

import torch
from torch import Tensor

from model.batches import Batch
from model.graph import Relation
from model.network import RankingNetwork


def logits_of(network: RankingNetwork, products: Tensor, batch: Batch) -> Tensor:
    """Return the scores of all products for each question of a batch `[Q, P]`."""
    users = network.users(products, batch.events, last_only=not batch.every_step)  # [B, L, d]
    asked = users.flatten(0, 1)[batch.question_step]  # [Q, d]
    logits: Tensor = network.dropout(asked) @ products.T / network.config.temperature
    if batch.popularity is not None:
        logits = logits + network.popularity_weight * batch.popularity.to(logits.device)
    if batch.repeats is not None and network.repeat is not None:
        gain = network.repeat(torch.from_numpy(batch.repeats.features).to(logits.device))
        user, product = torch.from_numpy(batch.repeats.users()), torch.from_numpy(batch.repeats.product_index).long()
        place = (user.to(logits.device), product.to(logits.device))
        logits = logits.index_put(place, gain.to(logits.dtype), accumulate=True)
    return logits


def batch_loss(
    network: RankingNetwork,
    text: Tensor,
    identity_index: Tensor,
    relations: tuple[Relation, ...],
    product_count: int,
    batch: Batch,
) -> Tensor:
    """Return the mean over the questions of −Σ_t share_t log softmax(logits)_t over their right products t."""
    products = network.nodes(text, identity_index, relations)[:product_count]
    logits = logits_of(network, products, batch).float()
    right = logits[batch.target_question, batch.target_product]
    missed = (logits.logsumexp(1)[batch.target_question] - right) * batch.target_share
    return missed.sum() / len(batch.question_step)
