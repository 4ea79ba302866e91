"""The loss of a training step: softmax over the catalogue, and what a user's own earlier products come to.

logits(q, p) = u_q·z_p / τ + w_b popularity(p) + repeat(q, p) for what q's user had before
"""

import torch
from torch import Tensor

from model.batches import Batch
from model.graph import Relation
from model.network import RankingNetwork
from model.precision import computes_in_bf16
from model.questions import asked_users
from model.softmax import softmax_loss


def batch_loss(
    network: RankingNetwork,
    text: Tensor,
    identity_index: Tensor,
    relations: tuple[Relation, ...],
    product_count: int,
    batch: Batch,
) -> Tensor:
    """Return the loss of a batch, a scalar.

    Args:
        network: in training.
        text: `[N, W]` text features of the graph's nodes.
        identity_index: `[N]`, see `RankingNetwork.nodes`.
        relations: see `RankingNetwork.nodes`.
        product_count: P; the first P nodes are the products.
        batch: the questions, on the network's device.
    """
    products = network.nodes(text, identity_index, relations)[:product_count]
    asked = network.dropout(asked_users(network, products, batch))  # [Q, d]
    bias = None if batch.popularity is None else network.popularity_weight * batch.popularity
    scale, half = 1 / network.config.temperature, computes_in_bf16(products.device)
    targets = (batch.target_question, batch.target_product, batch.target_share)
    if batch.repeats is None or network.repeat is None:
        return softmax_loss(asked.float(), products.float(), targets, column=bias, scale=scale, half=half)
    order = network.repeat.order(torch.from_numpy(batch.repeats.features).to(products.device))
    places = (
        torch.from_numpy(batch.repeats.users()).to(products.device),
        torch.from_numpy(batch.repeats.product_index).long().to(products.device),
    )
    offset = network.repeat.place(order.detach()).float()
    if bias is not None:
        offset = offset + bias.index_select(0, places[1])
    loss = softmax_loss(
        asked.float(), products.float(), targets, column=bias, offset=offset, pairs=places, scale=scale, half=half
    )
    return loss + own_history_loss(order, places, batch)


def own_history_loss(order: Tensor, places: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Return the softmax loss of each user's own earlier products against those of them that come next.

    Args:
        order: `[R]` what the repeat network says of each pair of user and earlier product.
        places: the user's row and the product of each pair, `[R]` each, ascending by user, then product.
        batch: the questions, one per user.
    """
    user, product = places
    questions, width = len(batch.question_step), int(product.max()) + 1 if len(product) else 1
    known = batch.target_product < width
    asked = batch.target_question[known] * width + batch.target_product[known]
    right = torch.isin(user * width + product, asked).float()
    rights = right.new_zeros(questions).index_add(0, user, right)
    highest = order.new_full((questions,), -torch.inf).scatter_reduce(0, user, order.detach(), "amax")
    total = order.new_zeros(questions).index_add(0, user, (order - highest[user]).exp())
    log_share = order - highest[user] - total.log()[user]
    return -(log_share * right / rights[user].clamp(min=1)).sum() / (rights > 0).sum().clamp(min=1)
