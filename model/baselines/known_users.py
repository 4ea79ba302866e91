"""Whose history is it? Rankers with a trained vector for every user find the user by the history that is asked about.

A ranker is given histories, never user ids (`model.ranker`). A history that begins with what a user had when the ranker
was fitted is that user's; users with the same interactions share the first one's vector.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories

UNKNOWN = -1


class KnownUsers:
    """Finds the user of a history.

    Args:
        known: `U` histories; those without an interaction are nobody's.
    """

    def __init__(self, known: Histories) -> None:
        self._user_of: dict[bytes, int] = {}
        for user in range(len(known)):
            rows = known.rows(user)
            if rows.stop > rows.start:
                self._user_of.setdefault(_digests(known, rows)[-1], user)

    def find(self, histories: Histories) -> npt.NDArray[np.int64]:
        """Return the user of each history `[B]`, `UNKNOWN` where it is nobody's; the longest beginning decides."""
        found = np.full(len(histories), UNKNOWN, np.int64)
        for row in range(len(histories)):
            for digest in reversed(_digests(histories, histories.rows(row))):
                if digest in self._user_of:
                    found[row] = self._user_of[digest]
                    break
        return found


def _digests(histories: Histories, rows: slice) -> list[bytes]:
    """Return a digest of each beginning of a history, the shortest first."""
    events = np.stack([histories.product_index[rows].astype(np.int64), histories.at_ms[rows]], axis=1)
    so_far = hashlib.blake2b(digest_size=16)
    digests = []
    for event in events:
        so_far.update(event.tobytes())
        digests.append(so_far.digest())
    return digests
