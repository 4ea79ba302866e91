"""Whom and what a model is good for: a metric by the length of the history, and by a product's popularity and age.

Users are cut by their history into groups of about equal size; so are right products, each a (user, product) pair, by
the interactions that their product had, and by the days since its first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories
from model.case import DAY_MS, Case

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

_GROUPS = 5
_Z = 1.96
"""Intervals of slices are of the normal approximation: they are many, and none is tested."""


@dataclass(frozen=True)
class Bins:
    """Groups of values: which group each one is in `[N]`, and what the groups are called."""

    index: Int64s
    labels: Sequence[str]


@dataclass(frozen=True)
class Slice:
    """One group: its name, how many are in it, and each model's mean with the half-width of its interval."""

    label: str
    count: int
    means: Sequence[float]
    margins: Sequence[float]


def by_history(case: Case, values: Floats) -> list[Slice]:
    """Return a metric of M models by the length of the users' histories, `values [B, M]`."""
    return _sliced(equal_groups(np.diff(case.histories.offsets)), values)


def by_popularity(case: Case, found: Floats) -> list[Slice]:
    """Return how many right products are found, by the interactions that each had, `found [T, M]`."""
    counts = np.bincount(case.known.product_index, minlength=len(case.candidates))
    return _sliced(equal_groups(counts[case.truth_product_index].astype(np.int64)), found)


def by_age(case: Case, found: Floats) -> list[Slice]:
    """Return how many right products are found, by the days since the first interaction with each, `found [T, M]`."""
    first = first_ms(case.known, len(case.candidates))[case.truth_product_index]
    days = (case.now_ms[case.rows_of_truth()] - first) // DAY_MS
    days = np.where(first == np.iinfo(np.int64).max, -1, np.maximum(days, 0))
    return _sliced(equal_groups(days, missing="none yet"), found)


def found_pairs(ranked: npt.NDArray[np.int32], case: Case, k: int) -> Floats:
    """Return 1 for every right product that stands in the first k of its user's list `[T]`."""
    size = len(case.candidates)
    listed = np.repeat(np.arange(len(ranked)), min(k, ranked.shape[1])) * size + ranked[:, :k].ravel()
    listed = listed[ranked[:, :k].ravel() >= 0]
    return np.isin(case.rows_of_truth() * size + case.truth_product_index, listed).astype(np.float64)


def first_ms(known: Histories, product_count: int) -> Int64s:
    """Return the moment of the first interaction with each product `[P]`; the largest number where there is none."""
    first = np.full(product_count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(first, known.product_index, known.at_ms)
    return first


def equal_groups(values: Int64s, *, missing: str = "") -> Bins:
    """Cut whole numbers into groups of about equal size, whose borders are values that occur; fewer where many tie.

    Args:
        values: `[N]`.
        missing: name of a group of its own for values below zero.
    """
    absent = values < 0
    present = values[~absent]
    edges = np.empty(0, np.int64)
    if len(present):
        edges = np.unique(np.quantile(present, np.linspace(0, 1, _GROUPS + 1)[:-1], method="nearest"))
    labels = [missing] if missing and absent.any() else []
    index = np.searchsorted(edges, values, side="right") - 1 + len(labels)
    for low, above in zip(edges, [*edges[1:], np.inf][: len(edges)], strict=True):
        inside = present[(present >= low) & (present < above)]
        least, most = int(inside.min()), int(inside.max())
        labels.append(f"{least:,}" if least == most else f"{least:,}–{most:,}")
    return Bins(np.where(absent, 0, index), labels)


def _sliced(bins: Bins, values: Floats) -> list[Slice]:
    slices = []
    for group, label in enumerate(bins.labels):
        inside = values[bins.index == group]
        if len(inside):
            margin = _Z * inside.std(axis=0) / np.sqrt(len(inside))
            slices.append(Slice(label, len(inside), inside.mean(axis=0).tolist(), margin.tolist()))
    return slices
