"""Outside ids and the rows of a snapshot: one owner of the id <-> index mapping."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MISSING = -1
"""The index that stands for an id which is not in the vocabulary."""


class Vocabulary:
    """An immutable list of unique string ids, and the index of each.

    Args:
        ids: the ids in index order, a string array without nulls; may be memory-mapped.

    An id can be taken out without moving the others (`changed`): it keeps its index, by which `id` still finds it, but
    nobody finds the index by the id.
    """

    def __init__(self, ids: pa.Array | Sequence[str]) -> None:
        self.array: pa.Array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        self._taken_out: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.array)

    def __contains__(self, outside_id: str) -> bool:
        return outside_id in self._index_of

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {outside_id: index for index, outside_id in enumerate(self.array.to_pylist())}

    @property
    def taken_out(self) -> npt.NDArray[np.int64]:
        """The indices of ids that were taken out, ascending."""
        return np.sort(np.fromiter(self._taken_out.values(), np.int64))

    def changed(self, put_in: Sequence[str], taken_out: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary with some ids put in and others taken out, every index as it is.

        Args:
            put_in: new ones are appended in this order; one that was taken out before gets its index back.
            taken_out: unknown ones are passed over.
        """
        index_of, out = dict(self._index_of), dict(self._taken_out)
        fresh: list[str] = []
        for outside_id in put_in:
            if outside_id in out:
                index_of[outside_id] = out.pop(outside_id)
            elif outside_id not in index_of:
                index_of[outside_id] = len(self) + len(fresh)
                fresh.append(outside_id)
        for outside_id in taken_out:
            if outside_id in index_of:
                out[outside_id] = index_of.pop(outside_id)
        array = pa.concat_arrays([self.array, pa.array(fresh, pa.string())]) if fresh else self.array
        made = Vocabulary(array)
        made._taken_out = out
        made.__dict__["_index_of"] = index_of
        return made

    def index(self, outside_id: str) -> int:
        """Return the index of an id, `MISSING` if it has none."""
        return self._index_of.get(outside_id, MISSING)

    def place(self, outside_id: str) -> int:
        """Return the index of an id, also of one that was taken out; `MISSING` if it never had one."""
        return self._index_of.get(outside_id, self._taken_out.get(outside_id, MISSING))

    def indices(self, outside_ids: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the index of each id `[N]`, `MISSING` where it has none."""
        return np.fromiter(map(self._index_of.get, outside_ids, repeat(MISSING)), np.int32)

    def id(self, index: int) -> str:
        """Return the outside id of one index."""
        return str(self.array[index])

    def ids(self, indices: npt.NDArray[np.integer] | Sequence[int]) -> list[str]:
        """Return the outside ids of many indices."""
        outside_ids: list[str] = self.array.take(pa.array(indices, pa.int64())).to_pylist()
        return outside_ids
