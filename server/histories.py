"""What every user has done, up to this moment: the snapshot's histories and the events written since."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories, Snapshot
from kg.vocabulary import MISSING

Int32s = npt.NDArray[np.int32]

_COLUMNS = tuple(Histories.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction with a product of the catalogue; `value` is NaN where it has none."""

    product_index: int
    type: int
    at_ms: int
    value: float


class LiveHistories:
    """Histories that grow. Appending and reading belong to one thread, the event loop's.

    Args:
        snapshot: where the histories start.
        limit: interactions of a user that scoring sees, the latest ones.
    """

    def __init__(self, snapshot: Snapshot, limit: int) -> None:
        self._users = snapshot.users
        # A memory map makes each slice a memory map again, at ten times the price of a plain array.
        self._stored = Histories(*(np.asarray(getattr(snapshot.histories, name)) for name in _COLUMNS))
        self._limit = limit
        self._appended: dict[str, list[Interaction]] = {}
        self.applied = 0  # the journal's last offset that is in here

    def append(self, user_id: str, interaction: Interaction) -> None:
        """Add an interaction to a user's history, known or new; a late one finds its place by time."""
        self._appended.setdefault(user_id, []).append(interaction)

    def version(self, user_id: str) -> int:
        """Return a number that changes with every append to this user's history."""
        return len(self._appended.get(user_id, ()))

    def holds(self, user_id: str, interaction: Interaction) -> bool:
        """Return whether the snapshot has this very interaction (user, product, type, time)."""
        rows = self._rows(user_id)
        stored = self._stored
        same = (stored.at_ms[rows] == interaction.at_ms) & (stored.product_index[rows] == interaction.product_index)
        return bool((same & (stored.type[rows] == interaction.type)).any())

    def length(self, user_id: str) -> int:
        """Return how many interactions a user has, nothing left out."""
        rows = self._rows(user_id)
        return int(rows.stop) - int(rows.start) + self.version(user_id)

    def seen(self, user_id: str) -> Int32s:
        """Return the product of every interaction of a user, with repeats, in no order."""
        stored = self._stored.product_index[self._rows(user_id)]
        appended = self._appended.get(user_id)
        if appended is None:
            return stored
        return np.concatenate([stored, np.fromiter((each.product_index for each in appended), np.int32)])

    def latest(self, user_id: str, more: Sequence[Interaction] = ()) -> Histories:
        """Return the latest interactions of a user, oldest first, as a batch of one.

        Args:
            user_id: the user; an unknown one has an empty history.
            more: interactions of this request only, which come after the stored ones of the same time.
        """
        rows, stored = self._rows(user_id), self._stored
        rows = slice(max(rows.start, rows.stop - self._limit), rows.stop)
        added = [*self._appended.get(user_id, ()), *more]
        history = (stored.product_index[rows], stored.type[rows], stored.at_ms[rows], stored.value[rows])
        if added:
            history = (
                np.concatenate([history[0], np.array([each.product_index for each in added], np.int32)]),
                np.concatenate([history[1], np.array([each.type for each in added], np.int8)]),
                np.concatenate([history[2], np.array([each.at_ms for each in added], np.int64)]),
                np.concatenate([history[3], np.array([each.value for each in added], np.float32)]),
            )
            order = np.argsort(history[2], kind="stable")[-self._limit :]
            history = (history[0][order], history[1][order], history[2][order], history[3][order])
        return Histories(np.array([0, len(history[0])], np.int64), *history)

    def _rows(self, user_id: str) -> slice:
        user_index = self._users.index(user_id)
        return slice(0, 0) if user_index == MISSING else self._stored.rows(user_index)


def stack(histories: Sequence[Histories]) -> Histories:
    """Return batches of histories as one batch."""
    lengths = np.concatenate([[0], *(np.diff(each.offsets) for each in histories)])
    return Histories(
        np.cumsum(lengths).astype(np.int64),
        np.concatenate([each.product_index for each in histories]),
        np.concatenate([each.type for each in histories]),
        np.concatenate([each.at_ms for each in histories]),
        np.concatenate([each.value for each in histories]),
    )
