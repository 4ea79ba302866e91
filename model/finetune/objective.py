"""What an encoder is fine-tuned for: which texts a step reads anew, and what its loss is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model.finetune.text_ranking import Quality


@dataclass(frozen=True)
class Batch:
    """One step.

    Args:
        live: `[n]` rows of `Objective.texts` whose features are computed with gradient, unique.
        question: what the objective asks about them.
    """

    live: npt.NDArray[np.int64]
    question: Any


class Objective(Protocol):
    """Texts, steps and a loss; what the batch does not hold is read from a memory of features."""

    @property
    def texts(self) -> list[str]:
        """The N texts."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what learns besides the encoder, as groups of an optimizer; none may be empty."""

    def steps(self) -> int:
        """Return how many steps an epoch has."""

    def batches(self, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield the steps of an epoch."""

    def loss(self, batch: Batch, live: Tensor, memory: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            batch: of this objective.
            live: `[n, W]` features of `batch.live`, with gradient.
            memory: `[N, W]` the features that all texts had when they were read last, without.
        """

    def quality(self, features: Tensor) -> Quality:
        """Return how good features `[N, W]` of all texts are, by validation."""
