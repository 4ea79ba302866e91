"""Softmax over the columns of a catalogue, with one right product or many, a block of questions at a time.

    logits[q, c] = s · users_q · products_c + column_c, at the pairs (q, c) given with another offset for column_c
    loss         = mean over questions of −Σ_t share_t log softmax(logits)_t

Most of a training step is here, in passes over `[Q, C]`; so the gradient is written out and taken on the way: with G
the softmax minus the shares of the right products, it is s·G products, s·Gᵀ users, and G summed, over Q. The whole
array is never there, only blocks of it that stay near the processor.
"""

from typing import Any

import torch
from torch import Tensor

_BLOCK = 3_000_000  # logits at a time: with 32 MB of cache 3 to 12 million are alike, with 2 MB a core 3 are best
_BLOCK_CUDA = 2**28
_FEWEST_ROWS = 64

Pairs = tuple[Tensor, Tensor]


class BlockSoftmax(torch.autograd.Function):
    """The loss above; with `half` the matrix products are done in bf16, everything else in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,  # [Q, d]
        products: Tensor,  # [C, d]
        column: Tensor | None,  # [C]; None: 0
        offset: Tensor | None,  # [K] what stands for `column` at each pair; None: no pairs
        pairs: Pairs,  # question and column of each pair, [K] each, ascending by question, no pair twice
        targets: tuple[Tensor, Tensor, Tensor],  # question, column, share of each right answer, [T] each, likewise
        scale: float,
        half: bool,
    ) -> Tensor:
        """Return the mean loss, a scalar."""
        device, count, columns = users.device, len(users), len(products)
        dtype = torch.bfloat16 if half else torch.float32
        rows = min(count, max(_FEWEST_ROWS, (_BLOCK_CUDA if users.is_cuda else _BLOCK) // columns))
        starts = torch.arange(0, count + rows, rows, device=device)
        target_ends = torch.searchsorted(targets[0].contiguous(), starts).tolist()
        pair_ends = torch.searchsorted(pairs[0].contiguous(), starts).tolist()
        low_users, low_products = (users * scale).to(dtype), products.to(dtype)
        logits_of, shares_of = torch.empty(rows, columns, dtype=dtype, device=device), users.new_empty(rows, columns)
        users_gradient, products_gradient = torch.empty_like(users), torch.zeros_like(products)
        column_gradient = None if column is None else torch.zeros_like(column)
        offset_gradient = None if offset is None else torch.empty_like(offset)
        loss = users.new_zeros(())
        for block, start in enumerate(range(0, count, rows)):
            asked = low_users[start : start + rows]
            logits, shares = logits_of[: len(asked)], shares_of[: len(asked)]
            torch.mm(asked, low_products.T, out=logits)
            pair = slice(pair_ends[block], pair_ends[block + 1])
            places = (pairs[0][pair] - start, pairs[1][pair])
            at_pairs = None if offset is None else logits[places].float() + offset[pair]
            torch.add(logits, 0.0 if column is None else column, out=shares)
            if at_pairs is not None:
                shares.index_put_(places, at_pairs)
            target = slice(target_ends[block], target_ends[block + 1])
            question, product, share = targets[0][target] - start, targets[1][target], targets[2][target]
            right, highest = shares[question, product], shares.amax(1)
            torch.softmax(shares, 1, out=shares)
            log_sum = highest - shares.amax(1).log()
            loss += ((log_sum[question] - right) * share).sum()
            shares.index_put_((question, product), -share, accumulate=True)
            if column_gradient is not None:
                column_gradient += shares.sum(0)
            if offset_gradient is not None:
                offset_gradient[pair] = shares[places]
            if not ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]:
                continue
            error = logits.copy_(shares) if half else shares
            users_gradient[start : start + rows] = error @ low_products
            products_gradient += error.T @ asked
        if column_gradient is not None and offset_gradient is not None:
            column_gradient.index_add_(0, pairs[1], -offset_gradient)  # where the pair's own offset stood for it
        ctx.save_for_backward(
            users_gradient.mul_(scale / count),
            products_gradient.div_(count),  # the users came scaled
            None if column_gradient is None else column_gradient.div_(count),
            None if offset_gradient is None else offset_gradient.div_(count),
        )
        return loss / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of users, products, column and offset."""
        parts = [None if part is None else part * gradients[0] for part in ctx.saved_tensors]
        return *parts, None, None, None, None


def softmax_loss(
    users: Tensor,
    products: Tensor,
    targets: tuple[Tensor, Tensor, Tensor],
    *,
    scale: float,
    half: bool,
    column: Tensor | None = None,
    offset: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Tensor:
    """Return the loss of the module's docstring, a scalar.

    Args:
        users: `[Q, d]` float32.
        products: `[C, d]` float32.
        targets: question, column and share of each right answer, `[T]` each, ascending by question, none twice.
        scale: s.
        half: do the matrix products in bf16.
        column: `[C]` offset of each column, 0 without.
        offset: `[K]` offset at each of `pairs` instead of its column's.
        pairs: question and column, `[K]` each, ascending by question, none twice.
    """
    if pairs is None or offset is None:
        none = targets[0].new_zeros(0)
        pairs, offset = (none, none), None
    loss: Tensor = BlockSoftmax.apply(users, products, column, offset, pairs, targets, scale, half)
    return loss
