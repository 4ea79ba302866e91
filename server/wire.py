"""Plain results in the contract's wire format, written at once instead of a message for each.

A list of a hundred products has a thousand fields; setting each in a message takes a third of what the whole answer
costs. What a result says is of one shape unless reasons or details are asked for: its product, which is the same bytes
every time, and seven numbers. So both are laid side by side (protobuf, "Encoding"), those of all results at once; the
test compares what is read back with the messages.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kgrank.v1 import common_pb2
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, NEWCOMER, POPULARITY, TEXT
from server.question import Ranking

PLAIN = (GRAPH, TEXT, HISTORY, POPULARITY, NEIGHBOURS, NEWCOMER)
"""The components that these results have, by the contract's own names."""

_LENGTH_DELIMITED, _FIXED_32 = 2, 5
_RESULT = common_pb2.Result.DESCRIPTOR.fields_by_name
_COMPONENT = common_pb2.ScoreComponents.DESCRIPTOR.fields_by_name
_RESULTS = 1
"""The field of the results: the first one of every answer that has a list of them."""


def _tag(number: int, kind: int) -> int:
    assert number < 16  # so that a tag is one byte
    return number << 3 | kind


_NUMBERS = np.dtype(
    [
        ("score_tag", "u1"),
        ("score", "<f4"),
        ("components_tag", "u1"),
        ("components_length", "u1"),
        *(field for name in PLAIN for field in ((f"{name}_tag", "u1"), (name, "<f4"))),
    ]
)
_EMPTY = np.zeros((), _NUMBERS)
_EMPTY["score_tag"] = _tag(_RESULT["score"].number, _FIXED_32)
_EMPTY["components_tag"] = _tag(_RESULT["components"].number, _LENGTH_DELIMITED)
_EMPTY["components_length"] = 5 * len(PLAIN)
for _name in PLAIN:
    _EMPTY[f"{_name}_tag"] = _tag(_COMPONENT[_name].number, _FIXED_32)
_EMPTY_BYTES = np.frombuffer(_EMPTY.tobytes(), np.uint8)


class ResultWriter:
    """Writes results of one catalogue; may be shared between threads.

    Args:
        product_ids: a string array, by product index.
    """

    def __init__(self, product_ids: pa.Array) -> None:
        ids = product_ids.cast(pa.large_binary())
        lengths = pc.binary_length(ids).to_numpy(zero_copy_only=False)
        before_ids = [_before_id(length) for length in range(int(lengths.max(initial=0)) + 1)]
        headers = pa.array(before_ids, pa.large_binary()).take(pa.array(lengths))
        beginnings = pc.binary_join_element_wise(headers, ids, pa.scalar(b"", pa.large_binary()))
        self._length = lengths + np.array([len(each) for each in before_ids])[lengths]
        # One after the other; in front of them is room for as many bytes as the longest has to be read before any end.
        room = int(self._length.max(initial=0))
        self._end = np.cumsum(self._length) + room
        told = np.frombuffer(beginnings.buffers()[2] or b"", np.uint8)[: int(self._length.sum())]
        self._told = np.concatenate([np.zeros(room, np.uint8), told])

    def results(self, ranking: Ranking) -> bytes:
        """Return a ranking's results as the field 1 of an answer, best first.

        Args:
            ranking: without components other than `PLAIN`.
        """
        count = len(ranking.product_index)
        if not count:
            return b""
        length = self._length[ranking.product_index]
        width = int(length.max())
        # As bytes, which are laid down at once; records are, a field after the other.
        rows = np.empty((count, width + _NUMBERS.itemsize), np.uint8)
        rows[:, width:] = _EMPTY_BYTES
        told, numbers = _columns(rows, width)
        # Beginnings end in the same column; what stands before the shorter ones is cut off.
        at = np.ndarray((len(self._told) - width + 1,), told.dtype, self._told, strides=(1,))
        told[:] = at[self._end[ranking.product_index] - width]
        numbers["score"] = ranking.score
        for name, part in ranking.parts.items():
            numbers[name] = part
        if int(length.min()) == width:
            return rows.tobytes()
        kept = np.arange(rows.shape[1]) >= (width - length)[:, None]
        return bytes(rows[kept].data)


def _columns(rows: npt.NDArray[np.uint8], width: int) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Return the beginnings and the numbers of rows of bytes, as views."""
    records = rows.view(_row(width))[:, 0]
    return records["told"], records["numbers"]


@cache
def _row(width: int) -> "np.dtype[np.void]":
    return np.dtype([("told", f"V{width}"), ("numbers", _NUMBERS)])


def _before_id(length: int) -> bytes:
    """Return what stands before a product id of so many bytes: the tags and lengths of its result, and its own."""
    id_header = bytes([_tag(_RESULT["product_id"].number, _LENGTH_DELIMITED)]) + varint(length)
    size = len(id_header) + length + _NUMBERS.itemsize
    return bytes([_tag(_RESULTS, _LENGTH_DELIMITED)]) + varint(size) + id_header


def is_plain(ranking: Ranking) -> bool:
    """Return whether a ranking has no components but `PLAIN`."""
    return ranking.parts.keys() <= set(PLAIN)


def embedded(number: int, message: bytes) -> bytes:
    """Return a serialised message as a field of another one."""
    return bytes([_tag(number, _LENGTH_DELIMITED)]) + varint(len(message)) + message


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, the low ones first."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
