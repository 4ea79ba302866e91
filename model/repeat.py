"""Repeat purchases: how much a user's earlier purchases of a product speak for the next one.

Of every product p that user u has had, f(u, p) has, from the moment of ranking: the counts of it, faded with several
half-lives; the count itself; days since the first and the last; days between, and how near the next is by that; how
active the user was lately; how popular the product is and how often others come back to it.

    repeat(u, p) = a·MLP(f(u, p)) + b

The MLP learns which of their own products users have again (`model.loss.own_history_loss`), undisturbed by the rest of
the score; a and b place those products among the whole catalogue.

The decayed counts are what personal-frequency baselines rank by (TIFU-KNN, Hu et al. 2020, arXiv:2006.00556); the gap
features let the score rise when a product is about to run out (Bhagat et al. 2018, "Buy It Again"). It is exact and
sparse: only products of the history have a repeat score, and none is truncated away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kg.snapshot import Histories
from model.popularity import DAY_MS, ProductStatistics

_MOST_GAPS = 4.0
_OTHER_COLUMNS = 11
_HIDDEN = 32
"""Width of the first hidden layer; the second has half of it."""

ScoreRepeats = Callable[[Tensor], Tensor]
"""Features of pairs of a user and an earlier product `[R, F]` to what their scores gain `[R]`."""


@dataclass(frozen=True)
class Repeats:
    """The products of B histories, compressed by user, each with F features.

    Shapes: `offsets [B + 1]` int64, `product_index [R]` int32 ascending and unique within a user, `features [R, F]`.
    """

    offsets: npt.NDArray[np.int64]
    product_index: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]

    def users(self) -> npt.NDArray[np.int64]:
        """Return the row of the user of each pair `[R]`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def feature_count(half_lives_days: tuple[float, ...]) -> int:
    """Return F."""
    return len(half_lives_days) + _OTHER_COLUMNS


def repeat_features(
    histories: Histories,
    now_ms: npt.NDArray[np.int64],
    half_lives_days: tuple[float, ...],
    statistics: ProductStatistics,
) -> Repeats:
    """Return the repeat features of B histories, each seen from `now_ms [B]`."""
    product_count = len(statistics.popularity)
    users = histories.users_of_rows()
    keys = users * product_count + histories.product_index
    pairs, pair = np.unique(keys, return_inverse=True)
    user, product = np.divmod(pairs, product_count)
    age = np.maximum((now_ms[users] - histories.at_ms) / DAY_MS, 0.0)  # days
    count = np.bincount(pair, minlength=len(pairs))
    since, first = np.full(len(pairs), np.inf), np.zeros(len(pairs))
    np.minimum.at(since, pair, age)
    np.maximum.at(first, pair, age)
    gap = (first - since) / np.maximum(count - 1, 1)
    # Logs and scales bring every column to about the same size, which is all the normalisation that the MLP needs.
    columns = [np.log1p(np.bincount(pair, np.exp2(-age / days), len(pairs))) for days in half_lives_days]
    columns += [np.log1p(count), np.log1p(since) / 2, np.log1p(first) / 2, np.log1p(gap) / 2, count == 1]
    columns.append(np.where(count > 1, np.minimum(since / np.maximum(gap, 1.0), _MOST_GAPS), 0.0))
    for half_life in (half_lives_days[0], half_lives_days[-1], np.inf):
        activity = np.bincount(users, np.exp2(-age / half_life), len(histories))
        columns.append(np.log1p(activity)[user] / 3)
    columns += [statistics.popularity[product] / 3, statistics.rebuy[product]]
    return Repeats(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(histories)))]).astype(np.int64),
        product_index=product.astype(np.int32),
        features=np.stack(columns, axis=1).astype(np.float32),
    )


class RepeatScore(nn.Module):
    """A small network from the features of a (user, product) pair to what the pair's score gains.

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.first = nn.Linear(features, _HIDDEN)
        self.second = nn.Linear(_HIDDEN, _HIDDEN // 2)
        self.out = nn.Linear(_HIDDEN // 2, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores `[R]` for `features [R, F]`."""
        return self.place(self.order(features))

    def place(self, order: Tensor) -> Tensor:
        """Return the scores `[R]` for what `order` returned."""
        return self.scale * order + self.offset

    def order(self, features: Tensor) -> Tensor:
        """Return `[R]`: among one user's products, the higher is the likelier next."""
        hidden = F.gelu(self.second(F.gelu(self.first(features))))
        score: Tensor = self.linear(features) + self.out(hidden)
        return score.squeeze(-1)
