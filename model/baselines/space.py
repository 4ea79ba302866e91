"""Tuning spaces: the range of each field of a configuration, and fair draws from it, the same number for every peer.

    draw i:  u_i of a scrambled Sobol sequence in [0, 1)^fields, mapped to each field's range

A low-discrepancy sequence covers a small budget more evenly than independent draws (Bergstra and Bengio 2012, JMLR 13).
The ranges are plain values, so that another search (Optuna, say) can draw from the same space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel
from scipy.stats import qmc


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, both within; `log`: spread evenly over its magnitude."""

    low: float
    high: float
    log: bool = False

    def at(self, place: float) -> float:
        """Return the value at a place in [0, 1)."""
        if self.log:
            return float(np.exp(np.log(self.low) + place * (np.log(self.high) - np.log(self.low))))
        return self.low + place * (self.high - self.low)


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, both within; `log`: spread evenly over its magnitude."""

    low: int
    high: int
    log: bool = False

    def at(self, place: float) -> int:
        """Return the value at a place in [0, 1)."""
        return min(self.high, int(Real(self.low, self.high + 1, self.log).at(place)))


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """Return the value at a place in [0, 1)."""
        return self.values[int(place * len(self.values))]


Axis = Real | Whole | Choice
Config = TypeVar("Config", bound=BaseModel)


def draw(default: Config, space: Mapping[str, Axis], count: int, seed: int) -> tuple[Config, ...]:
    """Return `count` configurations: the default, then draws from the space around it.

    Args:
        default: what the first is, and where fields that the space does not name come from.
        space: field name to range; without one there is nothing to tune and the default is alone.
        count: of configurations, the default among them.
        seed: of the sequence.
    """
    if not space or count <= 1:
        return (default,)
    places = qmc.Sobol(len(space), seed=np.random.default_rng(seed)).random_base2(max(count - 2, 0).bit_length())
    drawn = [{name: axis.at(place) for (name, axis), place in zip(space.items(), row, strict=True)} for row in places]
    config_type = type(default)
    return (default, *(config_type.model_validate(default.model_dump() | fields) for fields in drawn[: count - 1]))
