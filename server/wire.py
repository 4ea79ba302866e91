"""Plain results in the contract's wire format, written at once instead of a message for each.

A list of a hundred products has a thousand fields; setting each in a message takes a third of what the whole answer
costs. What a result says is of one shape unless reasons or details are asked for: its product, which is the same bytes
every time, and six numbers. So both are laid side by side (protobuf, "Encoding"), and the test compares what is read
back with the messages.
"""

from collections.abc import Sequence

import numpy as np

from kgrank.v1 import common_pb2
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, POPULARITY, TEXT
from server.question import Ranking

PLAIN = (GRAPH, TEXT, HISTORY, POPULARITY, NEIGHBOURS)
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


class ResultWriter:
    """Writes results of one catalogue; may be shared between threads.

    Args:
        product_ids: by product index.
    """

    def __init__(self, product_ids: Sequence[str]) -> None:
        self._product_ids = product_ids
        self._beginnings: list[bytes | None] = [None] * len(product_ids)  # made when a product is first ranked

    def results(self, ranking: Ranking) -> bytes:
        """Return a ranking's results as the field 1 of an answer, best first.

        Args:
            ranking: without components other than `PLAIN`.
        """
        numbers = np.full(len(ranking.product_index), _EMPTY)
        numbers["score"] = ranking.score
        for name, part in ranking.parts.items():
            numbers[name] = part
        told, size = numbers.tobytes(), _NUMBERS.itemsize
        beginnings = self._beginnings
        pieces: list[bytes] = []
        for at, index in enumerate(ranking.product_index.tolist()):
            pieces.append(beginnings[index] or self._beginning(index))
            pieces.append(told[at * size : (at + 1) * size])
        return b"".join(pieces)

    def _beginning(self, index: int) -> bytes:
        """Return what stands before the numbers: the tag and length of the result, and its product id."""
        product_id = self._product_ids[index].encode()
        own = bytes([_tag(_RESULT["product_id"].number, _LENGTH_DELIMITED)]) + varint(len(product_id)) + product_id
        made = bytes([_tag(_RESULTS, _LENGTH_DELIMITED)]) + varint(len(own) + _NUMBERS.itemsize) + own
        self._beginnings[index] = made
        return made


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
