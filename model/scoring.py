"""What a trained model is to everything that ranks with it: a product matrix, and vectors of users made on demand.

    score(u, p) = vectors[u] · matrix[p] + repeat(u, p)

The columns of the matrix are the blocks of the score's components side by side, so every component of a score can be
told apart: `graph`, `text` and `popularity` are dot products over their columns, `history` is the repeat part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kg.snapshot import Histories

GRAPH = "graph"
TEXT = "text"
POPULARITY = "popularity"
HISTORY = "history"

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class UserVectors:
    """What a model makes of a batch of histories.

    Shapes: `vectors [B, D]` float32; the repeat part, compressed by user: `repeat_offsets [B + 1]`,
    `repeat_product_index [R]` ascending and unique within a user, `repeat_score [R]`.
    """

    vectors: Tensor
    repeat_offsets: Int64s
    repeat_product_index: Int32s
    repeat_score: Float32s

    def __len__(self) -> int:
        return len(self.repeat_offsets) - 1

    def repeats(self, row: int) -> tuple[Int32s, Float32s]:
        """Return the products that one user has had, and what each one's score gains by that."""
        rows = slice(int(self.repeat_offsets[row]), int(self.repeat_offsets[row + 1]))
        return self.repeat_product_index[rows], self.repeat_score[rows]


class ScoringModel(Protocol):
    """A model that ranks products for any history, of known users and new ones alike.

    Shapes: `matrix [P, D]` float32 on the CPU; `blocks` names the columns of each component.
    """

    @property
    def matrix(self) -> Tensor:
        """The product matrix `[P, D]`."""

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Component name to its columns of `matrix`."""

    def encode_users(self, histories: Histories, now_ms: Int64s) -> UserVectors:
        """Return the vectors of users given by their histories (product indices of the matrix).

        Args:
            histories: B histories, oldest first; an empty one is a cold user.
            now_ms: `[B]` the moment to rank for; nothing in a history may be later.
        """


def full_scores(model: ScoringModel, users: UserVectors) -> Tensor:
    """Return the score of every product for every user `[B, P]`."""
    scores = users.vectors @ model.matrix.T
    user_of_repeat = np.repeat(np.arange(len(users)), np.diff(users.repeat_offsets))
    rows, columns = torch.from_numpy(user_of_repeat), torch.from_numpy(users.repeat_product_index.astype(np.int64))
    scores.index_put_((rows, columns), torch.from_numpy(users.repeat_score), accumulate=True)
    return scores


def components(model: ScoringModel, users: UserVectors, row: int, product_indices: Int64s) -> dict[str, Float32s]:
    """Return what each component adds to one user's scores of some products; they sum up to the scores.

    Args:
        model: the model that made `users`.
        users: vectors of a batch.
        row: the user's row of the batch.
        product_indices: `[K]` products asked about.

    Returns:
        Component name to `[K]` float32.
    """
    vector, products = users.vectors[row], model.matrix[torch.from_numpy(np.asarray(product_indices, np.int64))]
    parts: dict[str, Float32s] = {
        name: (products[:, columns] @ vector[columns]).numpy() for name, columns in model.blocks.items()
    }
    repeat_index, repeat_score = users.repeats(row)
    history = np.zeros(len(product_indices), np.float32)
    if len(repeat_index):
        place = np.minimum(np.searchsorted(repeat_index, product_indices), len(repeat_index) - 1)
        found = repeat_index[place] == product_indices
        history[found] = repeat_score[place[found]]
    parts[HISTORY] = history
    return parts
