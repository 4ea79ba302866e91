"""The weight of an interaction by its age, as the baselines use it."""

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories
from model.case import DAY_MS

Float32s = npt.NDArray[np.float32]


def time_weights(histories: Histories, now_ms: npt.NDArray[np.int64], half_life_days: float | None) -> Float32s:
    """Return 0.5^(age / half-life) of every interaction `[N]`; one for all of them without a half-life.

    Args:
        histories: B histories.
        now_ms: `[B]` what age is counted from; an interaction after it counts as new.
        half_life_days: the age at which an interaction counts half.
    """
    if half_life_days is None:
        return np.ones(len(histories.at_ms), np.float32)
    age_ms = np.maximum(now_ms[histories.users_of_rows()] - histories.at_ms, 0)
    weight: Float32s = np.exp2(-age_ms / (half_life_days * DAY_MS)).astype(np.float32)
    return weight


def position_weights(histories: Histories, decay: float) -> Float32s:
    """Return decay^(number of later interactions of the same user) of every interaction `[N]`."""
    later = histories.offsets[1:][histories.users_of_rows()] - 1 - np.arange(len(histories.product_index))
    weight: Float32s = np.power(decay, later).astype(np.float32)
    return weight
