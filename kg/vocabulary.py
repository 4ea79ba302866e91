"""Outside ids and the rows of a snapshot: one owner of the id <-> index mapping."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MISSING = -1
"""The index that stands for an id which is not in the vocabulary."""


class Vocabulary:
    """An immutable list of unique string ids, and the index of each.

    Args:
        ids: the ids in index order, a string array without nulls; may be memory-mapped.
    """

    def __init__(self, ids: pa.Array | Sequence[str]) -> None:
        self.array: pa.Array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())

    def __len__(self) -> int:
        return len(self.array)

    def __contains__(self, outside_id: str) -> bool:
        return outside_id in self._index_of

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {outside_id: index for index, outside_id in enumerate(self.array.to_pylist())}

    def index(self, outside_id: str) -> int:
        """Return the index of an id, `MISSING` if it has none."""
        return self._index_of.get(outside_id, MISSING)

    def indices(self, outside_ids: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the index of each id `[N]`, `MISSING` where it has none."""
        get = self._index_of.get
        return np.fromiter((get(outside_id, MISSING) for outside_id in outside_ids), np.int32)

    def id(self, index: int) -> str:
        """Return the outside id of one index."""
        return str(self.array[index])

    def ids(self, indices: npt.NDArray[np.integer] | Sequence[int]) -> list[str]:
        """Return the outside ids of many indices."""
        outside_ids: list[str] = self.array.take(pa.array(indices, pa.int64())).to_pylist()
        return outside_ids
