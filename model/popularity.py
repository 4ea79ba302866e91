"""What all users together say of a product: how often it was had lately, and how often one user has it again."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories

DAY_MS = 86_400_000


@dataclass(frozen=True)
class ProductStatistics:
    """Statistics of P products at one moment.

    Shapes: `popularity [P]` is log(1 + Σ 2^(−age / half-life)) over the users who had the product, each counted once,
    at the age of the last time: a few who buy it daily don't make it popular. `rebuy [P]` is the log of how often, on
    average, a user who had the product had it (smoothed: 0.69 where nobody had it); `newcomer [P]` is whether nobody
    had the product in what a model was trained on.
    """

    popularity: npt.NDArray[np.float32]
    rebuy: npt.NDArray[np.float32]
    newcomer: npt.NDArray[np.bool_]

    def with_more(self, products: int) -> "ProductStatistics":
        """Return the statistics with those of further products, which nobody has had."""
        nobody = np.full(products, np.log(2), np.float32)
        return ProductStatistics(
            np.concatenate([self.popularity, np.zeros(products, np.float32)]),
            np.concatenate([self.rebuy, nobody]),
            np.concatenate([self.newcomer, np.ones(products, np.bool_)]),
        )


def product_statistics(
    histories: Histories, now_ms: int, half_life_days: float, product_count: int
) -> ProductStatistics:
    """Return the statistics of all products, of interactions that are all known at `now_ms`."""
    age = np.maximum((now_ms - histories.at_ms) / DAY_MS, 0.0)  # days
    pairs, pair = np.unique(histories.users_of_rows() * product_count + histories.product_index, return_inverse=True)
    latest = np.full(len(pairs), np.inf)
    np.minimum.at(latest, pair, age)
    faded = np.bincount(pairs % product_count, np.exp2(-latest / half_life_days), product_count)
    users = np.bincount(pairs % product_count, minlength=product_count)
    times = np.bincount(histories.product_index, minlength=product_count)
    return ProductStatistics(
        popularity=np.log1p(faded).astype(np.float32),
        rebuy=np.log((times + 2) / (users + 1)).astype(np.float32),
        newcomer=users == 0,
    )
