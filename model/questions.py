"""User vectors for the questions of a batch, with little spent on padding.

Histories of a batch differ in length, and most are short. So users are sorted by length and encoded in a few groups,
each as wide as its longest history: the same vectors, from a third of the work where the mean is a third of the most.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batches import Batch
from model.history import RecentEvents
from model.network import RankingNetwork

_GROUPS = 5
_FEWEST_USERS = 32  # in a group; below, calls cost more than padding


def asked_users(network: RankingNetwork, products: Tensor, batch: Batch) -> Tensor:
    """Return the vector of the user of every question `[Q, d]`, as known when it is asked.

    Args:
        network: its history encoder is used.
        products: `[P, d]` product vectors.
        batch: the questions.
    """
    events = batch.events
    users, width = events.product.shape
    if users < 2 * _FEWEST_USERS or products.is_cuda or not batch.every_step:
        whole = network.users(products, events, last_only=not batch.every_step)
        return whole.flatten(0, 1)[batch.question_step]
    groups = events.length.argsort(stable=True).chunk(min(_GROUPS, users // _FEWEST_USERS))
    parts = [_take(events, rows) for rows in groups]
    # One look-up for all groups: its backward writes an array of the size of `products`.
    vectors = F.embedding(torch.cat([part.product.flatten() for part in parts]), products)
    places = vectors.new_empty(users, width, dtype=torch.int64)  # of each user's steps among the encoded
    encoded, start = [], 0
    for rows, part in zip(groups, parts, strict=True):
        count = part.product.numel()
        places[rows, : part.product.shape[1]] = torch.arange(start, start + count).view(part.product.shape)
        inputs = vectors[start : start + count].view(*part.product.shape, -1)
        encoded.append(network.history(inputs, part).flatten(0, 1))
        start += count
    return F.embedding(places.flatten()[batch.question_step], torch.cat(encoded))


def _take(events: RecentEvents, rows: Tensor) -> RecentEvents:
    """Return some users' events, as wide as the longest needs."""
    length = events.length[rows]
    width = max(1, int(length.max()))
    return RecentEvents(events.product[rows, :width], events.type[rows, :width], events.day[rows, :width], length)
