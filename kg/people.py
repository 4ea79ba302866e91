"""Who had a product, and what before it: the interactions of a snapshot seen from the products.

People who had product X and later product p lead from X to p: `(X)<-[:PURCHASED]-(somebody)-[:PURCHASED]->(p)`. That is
the relation between products that training counts as transitions. It is told with a number and without names, and only
from `FEWEST` people on, so that nobody stands out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories

FEWEST = 3
"""Fewer people than this are no reason."""

TRANSITIONS = "NEXT"
"""What a model calls its weight of transitions."""

_MOST_PEOPLE = 256
_MOST_ROWS = 20_000

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Followed:
    """People who had two products, one after the other.

    Args:
        product_index: the earlier product.
        people: how many.
        before: type code of what most of them did with the earlier one.
        after: type code of what those did with the later one.
        weight: people / sqrt(those who had the one · those who had the other), the symmetric normalisation of a fact.
    """

    product_index: int
    people: int
    before: int
    after: int
    weight: float


class People:
    """The interactions of histories by product; may be shared between threads.

    Args:
        histories: of all users.
        product_count: P.
    """

    def __init__(self, histories: Histories, product_count: int) -> None:
        self._histories = Histories(*(np.asarray(getattr(histories, name)) for name in Histories.__dataclass_fields__))
        products = self._histories.product_index
        self._row = np.argsort(products, kind="stable").astype(np.uint32)  # ascending rows: users ascending, in time
        self._user = self._histories.users_of_rows().astype(np.int32)
        self._forgotten: set[int] = set()
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(products, minlength=product_count))])

    def forget(self, user_index: int) -> None:
        """Count a user no more; may be called from any thread."""
        self._forgotten.add(user_index)

    def count(self, product_index: int) -> int:
        """Return how many interactions a product has; none if it came later."""
        if product_index + 1 >= len(self._offsets):
            return 0
        return int(self._offsets[product_index + 1] - self._offsets[product_index])

    def followed(self, candidate: int, products: Int32s, user_index: int) -> list[Followed]:
        """Return which products the candidate was had after, by at least `FEWEST` people.

        Args:
            candidate: the later product.
            products: the earlier ones, ascending and unique.
            user_index: somebody who does not count; -1: nobody.
        """
        if not len(products) or not self.count(candidate):
            return []
        histories = self._histories
        rows = self._row[self._offsets[candidate] : self._offsets[candidate + 1]].astype(np.int64)
        users = self._user[rows]
        last = np.append(users[1:] != users[:-1], True) & (users != user_index)  # each user's last time
        if self._forgotten:
            last &= ~np.isin(users, list(self._forgotten))
        rows, users = rows[last][-_MOST_PEOPLE:], users[last][-_MOST_PEOPLE:]
        start = histories.offsets[users]
        lengths = rows - start  # what came before it: within a user, rows are in order of time
        few = np.cumsum(lengths) <= _MOST_ROWS
        start, lengths, rows, users = start[few], lengths[few], rows[few], users[few]
        who = np.repeat(np.arange(len(users)), lengths)
        before = np.arange(len(who)) + (start - (np.cumsum(lengths) - lengths))[who]
        place = np.searchsorted(products, histories.product_index[before])
        among = products[np.minimum(place, len(products) - 1)] == histories.product_index[before]
        before, who, place = before[among], who[among], place[among]
        _, first = np.unique(place * len(users) + who, return_index=True)
        place, did = place[first], histories.type[before[first]].astype(np.int64)
        did_then = histories.type[rows[who[first]]].astype(np.int64)
        # Of each earlier product, what most people did with the two.
        ways, people = np.unique((place << 16) | (did << 8) | did_then, return_counts=True)
        best: dict[int, tuple[int, int]] = {}
        for way, count in zip(ways.tolist(), people.tolist(), strict=True):
            if count >= max(FEWEST, best.get(way >> 16, (0, 0))[0] + 1):
                best[way >> 16] = (count, way)
        return [self._told(candidate, int(products[at]), count, way) for at, (count, way) in best.items()]

    def _told(self, candidate: int, product_index: int, people: int, way: int) -> Followed:
        had = self.count(candidate) * self.count(product_index)
        return Followed(product_index, people, (way >> 8) & 255, way & 255, min(1.0, people / had**0.5))
