"""Metrics of ranked lists, per user, and their bootstrap intervals.

With hit_i = 1 where the i-th product of a user's list is right, and T the number of right products:

    recall@k           Σ_{i≤k} hit_i / T
    recall_capped@k    Σ_{i≤k} hit_i / min(k, T): 1 is reachable also where T > k
    precision@k        Σ_{i≤k} hit_i / k
    f1@k               2 · precision · recall / (precision + recall)
    hr@k               1 if there is a hit in the first k, else 0
    ndcg@k             Σ_{i≤k} hit_i / log2(i + 1)  ÷  Σ_{i≤min(k, T)} 1 / log2(i + 1)     (Järvelin & Kekäläinen 2002)
    mrr@k              1 / rank of the first hit, 0 without one in the first k
    map@k              Σ_{i≤k} hit_i · precision@i / T

A list shorter than k (padded with -1) has misses at its end. The ideal DCG has min(k, T) hits, not the number found.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ranked = npt.NDArray[np.integer]

PADDING = -1
"""Stands in a ranked list where there is no further product."""

CUTOFFS = (5, 10, 20)


def hits(ranked: Ranked, truth_offsets: npt.NDArray[np.int64], truth_product_index: npt.NDArray[np.int32]) -> Bools:
    """Return which products of each list are right `[B, K]`.

    Shapes: `ranked [B, K]`, `truth_offsets [B + 1]`, `truth_product_index [T]` ascending within a user.
    """
    size = int(max(ranked.max(initial=0), truth_product_index.max(initial=0))) + 1
    rows = np.arange(len(ranked))
    truth = np.repeat(rows, np.diff(truth_offsets)) * size + truth_product_index
    asked = np.where(ranked == PADDING, -1, rows[:, None] * size + ranked)
    if not len(truth):
        return np.zeros(ranked.shape, np.bool_)
    place = np.minimum(np.searchsorted(truth, asked), len(truth) - 1)
    return np.asarray(truth[place] == asked)


def recall(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the share of the right products that is in the first k `[B]`."""
    share: Floats = _found(hit, k) / truth_size
    return share


def recall_capped(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the hits in the first k as a share of the most there could be, min(k, T) `[B]`."""
    share: Floats = _found(hit, k) / np.minimum(truth_size, k)
    return share


def precision(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the share of the first k that is right `[B]`."""
    share: Floats = _found(hit, k) / k
    return share


def f1(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the harmonic mean of precision and recall at k `[B]`."""
    # 2·P·R / (P + R) with P = n/k, R = n/T is 2·n / (k + T): no division by zero.
    harmonic: Floats = np.asarray(2 * _found(hit, k) / (k + truth_size))
    return harmonic


def hit_rate(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return 1 for each user with a hit in the first k `[B]`."""
    return (_found(hit, k) > 0).astype(np.float64)


def ndcg(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the discounted gain at k over the best possible one `[B]`."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(truth_size, k) - 1]
    gain: Floats = hit[:, :k] @ discount[: hit.shape[1]] / ideal
    return gain


def reciprocal_rank(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return one over the rank of the first hit, 0 without one in the first k `[B]`."""
    first = hit[:, :k].argmax(axis=1)
    return np.where(hit[:, :k].any(axis=1), 1 / (first + 1), 0.0)


def average_precision(hit: Bools, truth_size: npt.NDArray[np.integer], k: int) -> Floats:
    """Return the mean, over all right products, of the precision at their rank, 0 for those beyond k `[B]`."""
    head = hit[:, :k]
    precision_at = head.cumsum(axis=1) / np.arange(1, head.shape[1] + 1)
    mean: Floats = (precision_at * head).sum(axis=1) / truth_size
    return mean


PER_USER = {
    "recall": recall,
    "recall_capped": recall_capped,
    "precision": precision,
    "f1": f1,
    "hr": hit_rate,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "map": average_precision,
}


def per_user(
    ranked: Ranked,
    truth_offsets: npt.NDArray[np.int64],
    truth_product_index: npt.NDArray[np.int32],
    cutoffs: Iterable[int] = CUTOFFS,
) -> dict[str, Floats]:
    """Return every accuracy metric of every user: `ndcg@10` and so on to `[B]`.

    Args:
        ranked: `[B, K]` product indices, best first, `PADDING` at the end of a short list.
        truth_offsets: `[B + 1]`; every user has at least one right product.
        truth_product_index: `[T]`, ascending within a user.
        cutoffs: the values of k.
    """
    hit = hits(ranked, truth_offsets, truth_product_index)
    truth_size = np.diff(truth_offsets)
    return {f"{name}@{k}": metric(hit, truth_size, k) for name, metric in PER_USER.items() for k in cutoffs}


def coverage(ranked: Ranked, candidates: Bools, k: int) -> float:
    """Return the share of the candidates that is in anybody's first k."""
    shown = np.unique(ranked[:, :k])
    return float((shown != PADDING).sum() / max(candidates.sum(), 1))


def novelty(ranked: Ranked, users_of_product: npt.NDArray[np.integer], user_count: int, k: int) -> Floats:
    """Return the mean self-information of each user's first k, in bits `[B]` (Zhou et al. 2010).

    -log2 of the share of users who had the product; one nobody had counts as had by one.

    Args:
        ranked: `[B, K]`.
        users_of_product: `[P]`, how many users had each product.
        user_count: how many users there are.
        k: the cut-off.
    """
    bits = -np.log2(np.maximum(users_of_product, 1) / max(user_count, 1))
    return _mean_of_listed(np.append(bits, 0.0)[ranked[:, :k]], ranked[:, :k])


def intra_list_diversity(ranked: Ranked, features: sparse.csr_matrix, k: int) -> Floats:
    """Return one minus the mean cosine between the pairs of each user's first k `[B]` (Ziegler et al. 2005).

    Args:
        ranked: `[B, K]`.
        features: `[P, F]`, rows of length one, or zero for a product without features (unlike any other).
        k: the cut-off.
    """
    head = ranked[:, :k]
    listed = head != PADDING
    rows = np.repeat(np.arange(len(head)), listed.sum(axis=1))
    chosen = sparse.csr_matrix((np.ones(len(rows)), (rows, head[listed])), shape=(len(head), features.shape[0]))
    together = chosen @ features
    # |Σ f|² = Σ |f|² + 2 Σ_{pairs} f·f, so the pairs need no loop.
    squared = np.asarray(features.multiply(features).sum(axis=1)).ravel()
    pair_sum = np.asarray(together.multiply(together).sum(axis=1)).ravel() - chosen @ squared
    count = listed.sum(axis=1)
    pairs = np.maximum(count * (count - 1), 1)
    return np.where(count > 1, 1 - pair_sum / pairs, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean with the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Floats, generator: np.random.Generator, *, resamples: int = 1000) -> list[Estimate]:
    """Return mean and 95 % percentile interval of each column, users resampled with replacement (Efron 1979).

    Args:
        values: `[B, M]`, one row a user, one column a metric; a draw of users is the same for all columns.
        generator: where the draws come from.
        resamples: number of draws.
    """
    size = len(values)
    means = np.empty((resamples, values.shape[1]))
    for draw in range(resamples):
        weight = np.bincount(generator.integers(0, size, size), minlength=size)
        means[draw] = weight @ values / size
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)]


def _found(hit: Bools, k: int) -> Floats:
    count: Floats = hit[:, :k].sum(axis=1, dtype=np.float64)
    return count


def _mean_of_listed(values: Floats, ranked: Ranked) -> Floats:
    listed = ranked != PADDING
    mean: Floats = (values * listed).sum(axis=1) / np.maximum(listed.sum(axis=1), 1)
    return mean
