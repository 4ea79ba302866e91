"""What can be concluded from the figures of some users: intervals, paired differences, and how many were looked at.

Users are drawn with replacement, the same draws for every model, so that a difference of two models is judged on the
same people (paired bootstrap; Efron 1979; for rankings Sakai 2006, doi:10.1145/1148170.1148261). A p-value is the share
of the draws in which the difference has the other sign, both sides, with one added above and below (Davison and Hinkley
1997, section 4.2). Where many differences are tested, Holm's correction (1979) keeps the chance of any false claim at
the level.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.metrics import Estimate

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_BLOCK = 64


@dataclass(frozen=True)
class Sample:
    """What some users came to: `user_index [B]`, `values [B]`."""

    user_index: npt.NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with its interval, p-value, and the p-value after Holm's correction."""

    estimate: Estimate
    p: float
    p_holm: float

    @property
    def clear(self) -> bool:
        """Whether the difference stands after the correction."""
        return self.p_holm < 1 - CONFIDENCE


def resampled_means(values: Floats, generator: np.random.Generator, resamples: int) -> Floats:
    """Return the means of draws of users `[resamples, M]` for values `[B, M]`."""
    size = len(values)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        drawn = generator.integers(0, size, (count, size))
        weight = np.stack([np.bincount(row, minlength=size) for row in drawn])
        means[start : start + count] = weight @ values / size
    return means


def estimates(values: Floats, means: Floats) -> list[Estimate]:
    """Return mean and percentile interval of each column of `values [B, M]`, given its resampled means."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)]


def differences(values: Floats, means: Floats, reference: int) -> list[Difference]:
    """Return the lead of one column over each column, itself among them, corrected for all the others.

    Args:
        values: `[B, M]`, one metric of M models for the same users.
        means: `[R, M]` their resampled means.
        reference: the column that leads or lags.
    """
    apart, resampled = values[:, [reference]] - values, means[:, [reference]] - means
    found = estimates(apart, resampled)
    above, below = (resampled > 0).sum(axis=0), (resampled < 0).sum(axis=0)
    ties = len(resampled) - above - below
    p = np.minimum(1.0, 2 * (np.minimum(above, below) + ties + 1) / (len(resampled) + 1))
    others = np.arange(values.shape[1]) != reference
    corrected = np.ones(len(p))
    corrected[others] = holm(p[others])
    p[reference] = 1
    return [Difference(*row) for row in zip(found, p.tolist(), corrected.tolist(), strict=True)]


def margin(one: Sample, other: Sample, share: float, generator: np.random.Generator, resamples: int) -> Estimate:
    """Return how far the mean of one sample lies above a share of the other's, with its interval.

    Drawn are all who are in either, so that who is in both counts in both: with the same users it is a paired
    difference.

    Args:
        one: what is to lie above.
        other: what it is held against.
        share: of the other's mean.
        generator: where the draws come from.
        resamples: their number.
    """
    users = np.unique(np.concatenate([one.user_index, other.user_index]))
    columns = np.empty((len(users), 4))  # of each sample, a user's values and how many they are
    for at, part in ((0, one), (2, other)):
        place = np.searchsorted(users, part.user_index)
        columns[:, at] = np.bincount(place, part.values, len(users))
        columns[:, at + 1] = np.bincount(place, minlength=len(users))
    sums = resampled_means(columns, generator, resamples)
    sums = sums[(sums[:, [1, 3]] > 0).all(axis=1)]  # a draw may have nobody of a small sample
    apart = sums[:, 0] / sums[:, 1] - share * sums[:, 2] / sums[:, 3]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(apart, [tail, 1 - tail])
    return Estimate(float(one.values.mean() - share * other.values.mean()), float(low), float(high))


def holm(p: Floats) -> Floats:
    """Return p-values corrected for their number by Holm's step-down method `[N]`."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
