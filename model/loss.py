"""Softmax over the whole catalogue, with one right product or many.

    logits = s · users productsᵀ + bias + gains at some places
    loss   = mean over questions of −Σ_t share_t log softmax(logits)_t

Most of a training step is here, in passes over `[Q, P]`; so the gradient is written out: with G the softmax minus the
shares of the right products, over Q, it is s·G products, s·Gᵀ users, Σ_q G and G at the places. One array of that size
is made, and it becomes G in place.
"""

from typing import Any

import torch
from torch import Tensor

from model.batches import Batch
from model.graph import Relation
from model.network import RankingNetwork
from model.precision import computes_in_bf16


class CatalogueSoftmax(torch.autograd.Function):
    """The loss above; with `half` the matrix products are done in bf16, everything else in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,  # [Q, d]
        products: Tensor,  # [P, d]
        bias: Tensor,  # [P]
        gains: Tensor,  # [R]
        places: tuple[Tensor, Tensor],  # question and product of each gain, [R] each
        targets: tuple[Tensor, Tensor, Tensor],  # question, product and share of each right answer, [T] each
        scale: float,
        half: bool,
    ) -> Tensor:
        """Return the mean loss, a scalar."""
        ctx.scale, ctx.places, ctx.half = scale, places, half
        dtype = torch.bfloat16 if half else torch.float32
        logits = ((users * scale).to(dtype) @ products.to(dtype).T).float()
        logits += bias
        logits.index_put_(places, gains, accumulate=True)
        question, product, share = targets
        right = logits[question, product]
        highest = logits.amax(1, keepdim=True)
        logits.sub_(highest).exp_()
        total = logits.sum(1, keepdim=True)
        log_sum = (total.log() + highest).squeeze(1)
        count = len(users)
        logits.div_(total * count)
        logits.index_put_((question, product), -share / count, accumulate=True)
        ctx.save_for_backward(users, products, logits)
        return ((log_sum[question] - right) * share).sum() / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of users, products, bias and gains."""
        (outer,) = gradients
        users, products, error = ctx.saved_tensors
        dtype = torch.bfloat16 if ctx.half else torch.float32
        low = error.to(dtype)
        users_gradient = (low @ products.to(dtype)).float() * (ctx.scale * outer)
        products_gradient = (low.T @ users.to(dtype)).float() * (ctx.scale * outer)
        gains_gradient = error[ctx.places] * outer
        return users_gradient, products_gradient, error.sum(0) * outer, gains_gradient, None, None, None, None


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
    users = network.users(products, batch.events, last_only=not batch.every_step)  # [B, L, d]
    asked = network.dropout(users.flatten(0, 1)[batch.question_step])  # [Q, d]
    bias = products.new_zeros(product_count)
    if batch.popularity is not None:
        bias = network.popularity_weight * batch.popularity
    gains, rows = products.new_zeros(0), batch.question_step.new_zeros(0)
    order: Tensor | None = None
    places = (rows, rows)
    if batch.repeats is not None and network.repeat is not None:
        order = network.repeat.order(torch.from_numpy(batch.repeats.features).to(products.device))
        gains = network.repeat.place(order.detach())
        places = (
            torch.from_numpy(batch.repeats.users()).to(products.device),
            torch.from_numpy(batch.repeats.product_index).long().to(products.device),
        )
    targets = (batch.target_question, batch.target_product, batch.target_share)
    scale = 1 / network.config.temperature
    half = computes_in_bf16(products.device)
    given = (asked.float(), products.float(), bias, gains.float())
    loss: Tensor = CatalogueSoftmax.apply(*given, places, targets, scale, half)
    return loss if order is None else loss + own_history_loss(order, places, batch)


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
