"""What a trained model is to everything that ranks with it: a product matrix, and vectors of users made on demand.

    score(u, p) = vectors[u] · matrix[p] + added(u, p)

The columns of the matrix are the blocks of the score's components side by side, so every component of a score can be
told apart: `graph`, `text`, `popularity` and `newcomer` are dot products over their columns. What is added is sparse:
`history` for products that the user had, `neighbours` for those that go with them.
"""

from collections.abc import Mapping, Sequence
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
NEIGHBOURS = "neighbours"
NEWCOMER = "newcomer"
QUERY = "query"
RULE = "rule"
DIVERSITY = "diversity"
EXPLORATION = "exploration"

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class UserVectors:
    """What a model makes of a batch of histories.

    Shapes: `vectors [B, D]` float32; what is added, compressed by user: `added_offsets [B + 1]`,
    `added_product_index [R]` ascending and unique within a user, `added_score [R]`, and `added_history [R]`, the share
    of it that is `history`; the rest is `neighbours`.
    """

    vectors: Tensor
    added_offsets: Int64s
    added_product_index: Int32s
    added_score: Float32s
    added_history: Float32s

    def __len__(self) -> int:
        return len(self.added_offsets) - 1

    def take(self, rows: Sequence[int] | Int64s) -> "UserVectors":
        """Return some users of the batch."""
        taken = np.asarray(rows, np.int64)
        lengths = np.diff(self.added_offsets)[taken]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.added_offsets[taken] - offsets[:-1], lengths)
        added = (each[places] for each in (self.added_product_index, self.added_score, self.added_history))
        return UserVectors(self.vectors[torch.from_numpy(taken)], offsets, *added)

    def added(self, row: int) -> tuple[Int32s, Float32s, Float32s]:
        """Return the products of one user whose scores gain, by how much, and how much of it is `history`."""
        rows = slice(int(self.added_offsets[row]), int(self.added_offsets[row + 1]))
        return self.added_product_index[rows], self.added_score[rows], self.added_history[rows]


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

    def encode_users(self, histories: Histories, now_ms: Int64s, candidates: Int64s | None = None) -> UserVectors:
        """Return the vectors of users given by their histories (product indices of the matrix).

        Args:
            histories: B histories, oldest first; an empty one is a cold user.
            now_ms: `[B]` the moment to rank for; nothing in a history may be later.
            candidates: `[K]` the only products whose scores will be asked for, where it is so; what is added to those
                of other products may be missing then.
        """


def full_scores(model: ScoringModel, users: UserVectors) -> Tensor:
    """Return the score of every product for every user `[B, P]`."""
    scores = users.vectors @ model.matrix.T
    user_of_added = np.repeat(np.arange(len(users)), np.diff(users.added_offsets))
    rows, columns = torch.from_numpy(user_of_added), torch.from_numpy(users.added_product_index.astype(np.int64))
    scores.index_put_((rows, columns), torch.from_numpy(users.added_score), accumulate=True)
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
    added_index, added_score, added_history = users.added(row)
    history, neighbours = (np.zeros(len(product_indices), np.float32) for _ in range(2))
    if len(added_index):
        place = np.minimum(np.searchsorted(added_index, product_indices), len(added_index) - 1)
        found = added_index[place] == product_indices
        history[found] = added_history[place[found]]
        neighbours[found] = (added_score - added_history)[place[found]]
    return parts | {HISTORY: history, NEIGHBOURS: neighbours}
