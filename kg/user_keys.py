"""The keys of many users (`kg.erasure.user_key`), made once: a few erased ones are then found among millions at once.

Of each key its first 8 bytes are kept, sorted, with the user's row: who is found by them is looked at once more.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from kg.erasure import user_key
from kg.vocabulary import Vocabulary

_AT_ONCE = 1_000
_REST_S = 0.001
"""After so many keys, which take about 2 ms, other threads go first: rankings are answered meanwhile."""
_DIGITS = 16


@dataclass(frozen=True)
class SortedKeys:
    """The starts of users' keys `[U]` uint64, ascending, and the rows `[U]` int32 of these users."""

    starts: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, users: Vocabulary) -> Self:
        """Return those of all users; takes about 3 s for a million."""
        starts = np.empty(len(users), np.uint64)
        for begin in range(0, len(users), _AT_ONCE):
            ids = users.array.slice(begin, _AT_ONCE).to_pylist()
            starts[begin : begin + len(ids)] = [_start(user_key(user_id)) for user_id in ids]
            time.sleep(_REST_S)
        order = np.argsort(starts)
        return cls(starts[order], order.astype(np.int32))

    def among(self, users: Vocabulary, keys: Collection[str]) -> set[str]:
        """Return the ids of the users who have one of some keys.

        Args:
            users: those whose keys these are, or what became of them: a row's id may be another by now, a random one.
            keys: of users that are looked for.
        """
        asked = np.unique(np.array([_start(key) for key in keys], np.uint64))
        first, last = (np.searchsorted(self.starts, asked, side) for side in ("left", "right"))
        found = [self.rows[first[each] : last[each]] for each in np.flatnonzero(first < last)]
        wanted = set(keys)
        return {user_id for rows in found for user_id in users.ids(rows) if user_key(user_id) in wanted}


class UserKeys:
    """Finds users of one vocabulary by their keys, which are made when they are asked for first; for any thread.

    Args:
        users: the users.
    """

    def __init__(self, users: Vocabulary) -> None:
        self._users = users
        self._making = threading.Lock()
        self._keys: SortedKeys | None = None

    @property
    def are_made(self) -> bool:
        """Whether they are there already, so that looking for users costs next to nothing."""
        return self._keys is not None

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._users

    def among(self, keys: Collection[str]) -> set[str]:
        """Return the ids of the users who have one of some keys."""
        if not keys:
            return set()
        with self._making:
            if self._keys is None:
                self._keys = SortedKeys.of(self._users)
        return self._keys.among(self._users, keys)


_File = tuple[int, int, int, int]


class KeysOfFiles:
    """The keys of the users that files hold, kept from one look at all of them to the next; for one thread at a time.

    Not the files themselves: they can go meanwhile.
    """

    def __init__(self) -> None:
        self._before: dict[_File, SortedKeys] = {}
        self._kept: dict[_File, SortedKeys] = {}

    def look_anew(self) -> None:
        """Begin to look at all files: what this look does not ask for is not kept beyond the next."""
        self._before, self._kept = self._kept, {}

    def of(self, file: _File | None, users: Vocabulary) -> SortedKeys:
        """Return the keys of the users that a file holds; of None, which is no file to know again, anew each time."""
        kept = None if file is None else self._kept.get(file, self._before.get(file))
        keys = SortedKeys.of(users) if kept is None else kept
        self.keep(file, keys)
        return keys

    def keep(self, file: _File | None, keys: SortedKeys) -> None:
        """Keep keys for a file: those of its users, or of whom they were before some of their ids were made random."""
        if file is not None:
            self._kept[file] = keys


def which_file(path: Path) -> _File | None:
    """Return which file a path is now, so that another in its place is told from it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size


def _start(key: str) -> int:
    return int(key[:_DIGITS], 16)
