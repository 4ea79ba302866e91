"""Who had a product, and what before it: the interactions of a snapshot seen from the products.

People who had product X and later product p lead from X to p: `(X)<-[:PURCHASED]-(somebody)-[:PURCHASED]->(p)`. That is
the relation between products that training counts as transitions. So do those who had both at the same moment, as in
one basket; where they are the most, nothing is said of which came first. It is told with a number and without names,
and only from `FEWEST` people on, so that nobody stands out.

Of two products, those who had the rarer one are looked up among those who had the other. All of them are, unless that
takes too long: then as many as time allows, drawn at random, and there are at least as many people as are found.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kg.reason import AtLeast
from kg.snapshot import Histories

FEWEST = 3
"""Fewer people than this are no reason."""

TRANSITIONS = "NEXT"
"""What a model calls its weight of transitions."""

_MOST_LOOKUPS = 20_000
"""People who are looked up for one candidate, over all products of a history."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Followed:
    """People who had two products, one after the other or both at once.

    Args:
        product_index: the earlier product.
        people: how many; `AtLeast` where not all were looked up.
        at_once: some of them had both at the same moment; else each had the other one later.
        before: type code of what most of them did with the earlier one.
        after: type code of what those did with the later one.
        weight: people / sqrt(those who had the one · those who had the other), the symmetric normalisation of a fact;
            where not all were looked up, each of `people` counts for those who were not.
    """

    product_index: int
    people: int
    at_once: bool
    before: int
    after: int
    weight: float


class People:
    """The interactions of histories by product and user; may be shared between threads.

    Args:
        histories: of all users.
        product_count: P.
    """

    def __init__(self, histories: Histories, product_count: int) -> None:
        self._type, self._at_ms = np.asarray(histories.type), np.asarray(histories.at_ms)
        products = np.asarray(histories.product_index)
        row = np.argsort(products, kind="stable")  # by product, then by user, then in time
        products, users = products[row], histories.users_of_rows()[row].astype(np.int32)
        new = np.append(True, (products[1:] != products[:-1]) | (users[1:] != users[:-1]))[: len(row)]
        first = np.flatnonzero(new)
        self._user = users[first]
        self._first = row[first].astype(np.uint32)
        self._last = row[np.append(first[1:], len(row))[: len(first)] - 1].astype(np.uint32)
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(products[first], minlength=product_count))])
        self._forgotten: set[int] = set()

    def forget(self, user_index: int) -> None:
        """Count a user no more; may be called from any thread."""
        self._forgotten.add(user_index)

    def followed(self, candidate: int, products: Int32s, user_index: int) -> list[Followed]:
        """Return which products the candidate was had after, by at least `FEWEST` people.

        Args:
            candidate: the later product.
            products: the earlier ones, unique.
            user_index: somebody who does not count; -1: nobody.
        """
        later = self._of(candidate)
        earlier = {product: had for product in products.tolist() if len(had := self._of(product)) >= FEWEST}
        if not earlier or len(later) < FEWEST:
            return []
        most = _MOST_LOOKUPS // len(earlier)
        generator = np.random.default_rng(candidate)  # the same answer whenever it is asked for
        both = [self._had_both(had, later, most, generator) for had in earlier.values()]
        first, then = (np.concatenate(each) for each in zip(*both, strict=True))
        product = np.repeat(np.fromiter(earlier, np.int64), [len(each) for each, _ in both])
        row, row_then = self._first[first], self._last[then]
        at_ms, then_ms = self._at_ms[row], self._at_ms[row_then]
        counted = (at_ms <= then_ms) & ~np.isin(self._user[first], [user_index, *self._forgotten])
        did, did_then = self._type[row[counted]].astype(np.int64), self._type[row_then[counted]].astype(np.int64)
        later_on = (at_ms < then_ms)[counted]
        ways, people = np.unique((product[counted] << 17) | (did << 9) | (did_then << 1) | later_on, return_counts=True)
        of_way: dict[int, list[int]] = {}
        for way, count in zip(ways.tolist(), people.tolist(), strict=True):
            of_way.setdefault(way >> 1, [0, 0])[way & 1] = count
        # Of each earlier product, what most people did with the two.
        best: dict[int, tuple[int, int, int]] = {}
        for way, (at_once, went_on) in of_way.items():
            if at_once + went_on >= max(FEWEST, best.get(way >> 16, (0,))[0] + 1):
                best[way >> 16] = (at_once + went_on, went_on, way)
        return [self._told(each, len(earlier[each]), len(later), most, *of) for each, of in best.items()]

    def _of(self, product: int) -> range:
        """Return where the people who had a product stand; nowhere if it came later."""
        if product + 1 >= len(self._offsets):
            return range(0)
        return range(int(self._offsets[product]), int(self._offsets[product + 1]))

    def _had_both(self, one: range, other: range, most: int, generator: np.random.Generator) -> tuple[Int64s, Int64s]:
        """Return where people stand among those of one product, and where among those of another.

        Args:
            one: from `_of`.
            other: from `_of`.
            most: people who are looked up at most.
            generator: draws them where there are more.
        """
        few, many = (one, other) if len(one) <= len(other) else (other, one)
        drawn = np.arange(few.start, few.stop)
        if len(few) > most:
            drawn = few.start + np.sort(generator.choice(len(few), most, replace=False, shuffle=False))
        users, among = self._user[drawn], self._user[many.start : many.stop]
        found = many.start + np.minimum(np.searchsorted(among, users), len(many) - 1)
        same = self._user[found] == users
        return (drawn[same], found[same]) if few is one else (found[same], drawn[same])

    def _told(self, product: int, had: int, had_then: int, most: int, people: int, went_on: int, way: int) -> Followed:
        at_once = went_on < max(FEWEST, people / 2)  # then it is said of all of them
        told = people if at_once else went_on
        each_for = max(1.0, min(had, had_then) / most)
        weight = min(1.0, told * each_for / (had * had_then) ** 0.5)
        many = AtLeast(told) if each_for > 1 else told
        return Followed(product, many, at_once, (way >> 8) & 255, way & 255, weight)
