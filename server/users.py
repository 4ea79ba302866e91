"""Vectors of users on demand: encoded together, kept until the user's next event."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from kg.snapshot import Histories, Snapshot
from model.scoring import ScoringModel, UserVectors
from server.histories import Interaction, LiveHistories, stack

CACHED_USERS = 200_000
CACHED_FOR_MS = 3_600_000
"""Vectors depend on the time since each interaction, but slowly, by days: an hour changes next to nothing."""

_WARMED_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """A user's vector `[D]` and what is added to scores, as in `UserVectors`.

    Good for this version of the history, and for a catalogue of `products` or more.
    """

    version: int
    products: int
    at_ms: int
    vector: npt.NDArray[np.float32]
    added_index: npt.NDArray[np.int32]
    added_score: npt.NDArray[np.float32]
    added_history: npt.NDArray[np.float32]


class UserEncoder:
    """Makes vectors of users with one model; belongs to one thread at a time."""

    def __init__(self, scorer: ScoringModel, histories: LiveHistories) -> None:
        self._scorer = scorer
        self._histories = histories
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        histories.copied_by(self)

    def with_scorer(self, scorer: ScoringModel) -> "UserEncoder":
        """Return an encoder with the same model over a changed catalogue; what is kept stays good, and is shared.

        Vectors of users who had a product whose text has changed, and what new products borrow of neighbours, follow
        within the hour, or with a user's next event.
        """
        made = UserEncoder(scorer, self._histories)
        made._kept = self._kept
        return made

    def keeps(self, user_id: str, now_ms: int) -> bool:
        """Return whether a user's vector is there already."""
        return bool(user_id) and self._keep(user_id, now_ms) is not None

    def encode(self, users: Sequence[tuple[str, Sequence[Interaction]]], now_ms: int) -> list[Encoded]:
        """Return the vectors of users, each an id (may be empty) and what its request tells besides."""
        rows = [self._keep(user_id, now_ms) if user_id and not told else None for user_id, told in users]
        fresh = [row for row, encoded in enumerate(rows) if encoded is None]
        if fresh:
            # The version is read before the history: an event in between makes a stale entry, never a wrong one.
            versions = [self._histories.version(users[row][0]) for row in fresh]
            products = len(self._scorer.matrix)
            histories = stack([self._histories.latest(users[row][0], products, users[row][1]) for row in fresh])
            made = self._scorer.encode_users(no_later(histories, now_ms), np.full(len(fresh), now_ms))
            vectors = made.vectors.numpy()
            for place, row in enumerate(fresh):
                encoded = Encoded(versions[place], products, now_ms, vectors[place], *made.added(place))
                rows[row] = encoded
                user_id, told = users[row]
                # What a smaller catalogue leaves out of a history, the one that comes after it would miss.
                if user_id and not told and not self._histories.reaches(user_id, products):
                    self._kept[user_id] = encoded
            while len(self._kept) > CACHED_USERS:
                self._kept.popitem(last=False)
        return [encoded for encoded in rows if encoded is not None]

    def warm(self, users: Sequence[str], now_ms: int) -> None:
        """Make the vectors of users beforehand, as many of the first as are kept."""
        for start in range(0, min(len(users), CACHED_USERS), _WARMED_TOGETHER):
            self.encode([(user_id, ()) for user_id in users[start : start + _WARMED_TOGETHER]], now_ms)

    def forget(self, user_id: str) -> None:
        """Forget a user's vector; may be called from any thread. One that is being made now is not used again."""
        self._kept.pop(user_id, None)

    def _keep(self, user_id: str, now_ms: int) -> Encoded | None:
        encoded = self._kept.get(user_id)
        if encoded is None or encoded.version != self._histories.version(user_id):
            return None
        if encoded.products > len(self._scorer.matrix):  # made with a larger catalogue, which has come meanwhile
            return None
        return encoded if abs(now_ms - encoded.at_ms) <= CACHED_FOR_MS else None


def no_later(histories: Histories, now_ms: int) -> Histories:
    """Return histories as they are ranked with: what is later than the moment to rank for is of that moment.

    A clock ran ahead, or the moment is that of a snapshot of the past: were it moved to the last interaction instead,
    all that came before would have faded at once, by years.
    """
    return replace(histories, at_ms=np.minimum(histories.at_ms, now_ms))


def sampled_users(scorer: ScoringModel, snapshot: Snapshot, count: int) -> UserVectors:
    """Return vectors of users drawn from the snapshot, the same ones each time, and of a cold one."""
    histories = snapshot.histories
    drawn = np.random.default_rng(0).choice(len(histories), min(count, len(histories)), replace=False)
    cold = histories.take(np.empty(0, np.int64))
    cold = Histories(np.zeros(2, np.int64), cold.product_index, cold.type, cold.at_ms, cold.value)
    sample = stack([cold, histories.take(drawn)])
    return scorer.encode_users(sample, np.full(len(sample), snapshot.as_of_ms))


def stacked(users: Sequence[Encoded]) -> UserVectors:
    """Return users as one batch."""
    return UserVectors(
        torch.from_numpy(np.stack([user.vector for user in users])),
        np.cumsum([0, *(len(user.added_index) for user in users)]).astype(np.int64),
        np.concatenate([user.added_index for user in users]),
        np.concatenate([user.added_score for user in users]),
        np.concatenate([user.added_history for user in users]),
    )
