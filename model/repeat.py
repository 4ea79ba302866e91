"""Repeat purchases: how much a user's earlier purchases of a product speak for the next one.

For each product p of a user's whole history, from the moment of ranking:

    f(u, p) = [log(1 + Σ_j 2^(−age_j / half-life)) for each half-life ; log(1 + count) ; log(1 + days since the last) ;
               days since the last / mean days between, capped ; log(1 + the user's decayed events) ]
    repeat(u, p) = MLP(f(u, p))

The decayed counts are what personal-frequency baselines rank by (TIFU-KNN, Hu et al. 2020, arXiv:2006.00556); the gap
features let the score rise when a product is about to run out (Bhagat et al. 2018, "Buy It Again"). It is exact and
sparse: only products of the history have a repeat score, and none is truncated away.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from kg.snapshot import Histories

DAY_MS = 86_400_000
_MOST_GAPS = 4.0


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
    return len(half_lives_days) + 4


def repeat_features(
    histories: Histories, now_ms: npt.NDArray[np.int64], half_lives_days: tuple[float, ...], product_count: int
) -> Repeats:
    """Return the repeat features of B histories, each seen from `now_ms [B]`."""
    users = histories.users_of_rows()
    keys = users * product_count + histories.product_index
    unique, place = np.unique(keys, return_inverse=True)
    pair_user, pair_product = np.divmod(unique, product_count)
    age = np.maximum((now_ms[users] - histories.at_ms) / DAY_MS, 0.0)  # days
    count = np.bincount(place, minlength=len(unique)).astype(np.float64)
    since, oldest = np.full(len(unique), np.inf), np.zeros(len(unique))
    np.minimum.at(since, place, age)
    np.maximum.at(oldest, place, age)
    columns = []
    for half_life in half_lives_days:
        decayed = np.exp2(-age / half_life)
        columns.append(np.log1p(np.bincount(place, weights=decayed, minlength=len(unique))))
    activity = np.bincount(users, weights=np.exp2(-age / half_lives_days[-1]), minlength=len(histories))
    gap = (oldest - since) / np.maximum(count - 1, 1)
    columns += [
        np.log1p(count),
        np.log1p(since),
        np.where(count > 1, np.minimum(since / np.maximum(gap, 1.0), _MOST_GAPS), 0.0),
        np.log1p(activity)[pair_user],
    ]
    counts = np.bincount(pair_user, minlength=len(histories))
    return Repeats(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        product_index=pair_product.astype(np.int32),
        features=np.stack(columns, axis=1).astype(np.float32),
    )


class RepeatScore(nn.Module):
    """A small network from the features of a (user, product) pair to what the pair's score gains.

    Args:
        features: F.
        hidden: width of the hidden layer.
    """

    def __init__(self, features: int, hidden: int = 32) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.hidden = nn.Linear(features, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return `[R]` for `features [R, F]`."""
        score: Tensor = self.linear(features) + self.out(F.gelu(self.hidden(features)))
        return score.squeeze(-1)
