"""Popularity that fades: the log of how often each product was had lately."""

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories
from model.history import DAY_MS


def decayed_popularity(
    histories: Histories, now_ms: int, half_life_days: float, product_count: int
) -> npt.NDArray[np.float32]:
    """Return log(1 + Σ 2^(−age / half-life)) of every product `[P]`, over all users' interactions up to `now_ms`."""
    age = np.maximum((now_ms - histories.at_ms) / DAY_MS, 0.0)  # days
    counts = np.bincount(histories.product_index, weights=np.exp2(-age / half_life_days), minlength=product_count)
    return np.log1p(counts).astype(np.float32)
