"""The loss of a training step: softmax over the catalogue, and what a user's own earlier products come to.

logits(q, p) = u_q·z_p / τ + w_b popularity(p) + repeat(q, p) for what q's user had before

Where repeats have a score of their own, most of what comes next is repeats, and a single softmax would teach the
network little else. So the network learns which of all products *new* to a user come next, the repeat score learns
which of the user's *own* do, and a third softmax, where all else stands still, places the second among the first.
"""

import torch
from torch import Tensor

from model.batches import Batch
from model.graph import Relation
from model.negatives import softmax_over
from model.network import RankingNetwork
from model.precision import computes_in_bf16
from model.questions import asked_users

_NEVER = -1e4
"""A logit that makes a product's share zero, and finite in every precision."""


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
    softmax_loss = softmax_over(batch.negatives)
    if batch.repeats is None or network.repeat is None:
        return softmax_loss(asked.float(), products.float(), targets, column=bias, scale=scale, half=half)
    order = network.repeat.order(torch.from_numpy(batch.repeats.features).to(products.device))
    own = (
        torch.from_numpy(batch.repeats.users()).to(products.device),
        torch.from_numpy(batch.repeats.product_index).long().to(products.device),
    )
    column = products.new_zeros(product_count) if bias is None else bias
    new = new_products_loss(asked.float(), products.float(), column, own, batch, scale=scale, half=half)
    offset = network.repeat.place(order.detach()).float() + column.detach()[own[1]]
    still = (asked.detach().float(), products.detach().float())
    placed = softmax_loss(*still, targets, column=column.detach(), offset=offset, pairs=own, scale=scale, half=half)
    return new + placed + own_history_loss(order, own, batch)


def new_products_loss(
    asked: Tensor,
    products: Tensor,
    column: Tensor,
    own: tuple[Tensor, Tensor],
    batch: Batch,
    *,
    scale: float,
    half: bool,
) -> Tensor:
    """Return the softmax loss of what each user has not had yet, against those products of it that come next.

    Args:
        asked: `[Q, d]` vectors of the questions' users.
        products: `[P, d]`.
        column: `[P]` what is added for each product.
        own: question and product of what each user had before, `[R]` each, ascending by question.
        batch: the questions; those to which nothing new is an answer don't count.
        scale: of the products of users and products.
        half: do the matrix products in bf16.
    """
    width = len(products)
    new = ~torch.isin(batch.target_question * width + batch.target_product, own[0] * width + own[1])
    answered = batch.target_question[new]
    questions, row, counts = torch.unique_consecutive(answered, return_inverse=True, return_counts=True)
    if not len(questions):
        return asked.sum() * 0
    row_of_question = row.new_full((len(asked),), -1)
    row_of_question[questions] = torch.arange(len(questions), device=row.device)
    hidden = row_of_question[own[0]] >= 0
    pairs = (row_of_question[own[0][hidden]], own[1][hidden])
    never = asked.new_full((len(pairs[0]),), _NEVER)
    targets = (row, batch.target_product[new], 1 / counts[row].to(asked.dtype))
    return softmax_over(batch.negatives)(
        asked[questions], products, targets, column=column, offset=never, pairs=pairs, scale=scale, half=half
    )


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
