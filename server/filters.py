"""Which products a request lets through: masks over the catalogue, from columns that are laid out once.

What a filter names and the catalogue does not have (a brand, a category, an attribute) matches nothing. Filters repeat
from call to call, so that the last masks are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.edges import ATTRIBUTE, BRAND, CATEGORY
from kg.snapshot import Edges, Snapshot
from kg.tables import CATEGORY_SEPARATOR
from server.question import Filter, PriceRange

KEPT_MASKS = 128
_MOST_NAMED = 4096
"""Characters of the names in a filter that is kept: a larger one is made again faster than it is worth its room."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class CatalogueFilters:
    """The catalogue of a snapshot, laid out for filtering. Safe to share between threads; masks are not to be changed.

    Args:
        snapshot: its catalogue, and its `HAS_BRAND`, `IN_CATEGORY` and `HAS_ATTRIBUTE` facts.

    Shapes: `brand [P]` and `category [P]` number each product's brand and the deepest category that it is in, -1
    where it has none. Categories are numbered so that those below one follow each other.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        catalogue = snapshot.catalogue
        self._count = len(snapshot.products)
        self.brand, self._brands = _numbered(catalogue["brand"])
        self.category, self._subtrees = _as_tree(*_numbered(_joined(catalogue["category"])))
        self._price = pc.fill_null(catalogue["price"], float("nan")).to_numpy()
        names = catalogue.column_names
        self._available = catalogue["available"].to_numpy() if "available" in names else np.ones(self._count, np.bool_)
        self._nodes = {
            (kind, name): len(snapshot.products) + row
            for row, (kind, name) in enumerate(
                zip(snapshot.nodes["kind"].to_pylist(), snapshot.nodes["id"].to_pylist(), strict=True)
            )
            if kind in (ATTRIBUTE, BRAND, CATEGORY)
        }
        self._facts = {
            kind: _heads(snapshot.facts[relation], self._count)
            for kind, relation in ((ATTRIBUTE, "HAS_ATTRIBUTE"), (BRAND, "HAS_BRAND"), (CATEGORY, "IN_CATEGORY"))
            if relation in snapshot.facts
        }
        self._masks: OrderedDict[Filter, Bools] = OrderedDict()
        self._keeping = threading.Lock()

    def mask(self, wanted: Filter) -> Bools:
        """Return which products a filter lets through `[P]`."""
        with self._keeping:
            kept = self._masks.get(wanted)
            if kept is not None:
                self._masks.move_to_end(wanted)
                return kept
        made = self._mask(wanted)
        if _named(wanted) > _MOST_NAMED:
            return made
        with self._keeping:
            self._masks[wanted] = made
            while len(self._masks) > KEPT_MASKS:
                self._masks.popitem(last=False)
        return made

    def of_brands(self, brands: Iterable[str]) -> Bools:
        """Return which products are of one of some brands `[P]`."""
        wanted = list(brands)
        mask = np.isin(self.brand, [self._brands[brand] for brand in wanted if brand in self._brands])
        return self._with_facts(mask, BRAND, wanted)

    def in_categories(self, paths: Iterable[str]) -> Bools:
        """Return which products are in one of some categories or below it `[P]`."""
        wanted = list(paths)
        below = [np.arange(*self._subtrees[path]) for path in wanted if path in self._subtrees]
        mask = np.isin(self.category, np.concatenate(below)) if below else np.zeros(self._count, np.bool_)
        return self._with_facts(mask, CATEGORY, wanted)

    def products_of_brand(self, brand: str) -> Int64s:
        """Return the products of a brand, some of them twice, at the price of those alone."""
        number = self._brands.get(brand)
        found = [] if number is None else [self._by_brand.of(number, number + 1)]
        return self._and_of_facts(found, BRAND, brand)

    def products_in_category(self, path: str) -> Int64s:
        """Return the products in a category or below it, some of them twice, at the price of those alone."""
        found = [self._by_category.of(*self._subtrees[path])] if path in self._subtrees else []
        return self._and_of_facts(found, CATEGORY, path)

    @cached_property
    def _by_brand(self) -> "_ByNumber":
        return _ByNumber(self.brand, np.arange(self._count, dtype=np.int32))

    @cached_property
    def _by_category(self) -> "_ByNumber":
        return _ByNumber(self.category, np.arange(self._count, dtype=np.int32))

    def _and_of_facts(self, found: list[Int32s], kind: str, name: str) -> Int64s:
        """Return products as one array, with those that facts join to a node."""
        facts, node = self._facts.get(kind), self._nodes.get((kind, name))
        if facts is not None and node is not None:
            found = [*found, facts.of(node, node + 1)]
        return np.concatenate(found or [np.empty(0, np.int32)]).astype(np.int64)

    def _mask(self, wanted: Filter) -> Bools:
        mask = np.ones(self._count, np.bool_)
        if wanted.categories:
            mask &= self.in_categories(wanted.categories)
        if wanted.brands:
            mask &= self.of_brands(wanted.brands)
        if wanted.price is not None:
            mask &= self._in_range(wanted.price)
        for key, values in wanted.attributes:
            mask &= self._with_facts(np.zeros(self._count, np.bool_), ATTRIBUTE, [f"{key}={value}" for value in values])
        if wanted.only_available:
            mask &= self._available
        return mask

    def _in_range(self, price: PriceRange) -> Bools:
        mask: Bools = ~np.isnan(self._price)
        if price.min is not None:
            mask &= self._price >= price.min
        if price.max is not None:
            mask &= self._price <= price.max
        if price.allow_unpriced:
            mask |= np.isnan(self._price)
        return mask

    def _with_facts(self, mask: Bools, kind: str, names: Iterable[str]) -> Bools:
        """Add the products that facts join to nodes of a kind."""
        facts = self._facts.get(kind)
        if facts is not None:
            for name in names:
                node = self._nodes.get((kind, name))
                if node is not None:
                    mask[facts.of(node, node + 1)] = True
        return mask


def _named(wanted: Filter) -> int:
    """Return how many characters the names in a filter have."""
    attributes = (each for key, values in wanted.attributes for each in (key, *values))
    return sum(map(len, (*wanted.categories, *wanted.brands, *attributes)))


class _ByNumber:
    """Products `[N]` by a number of each: its brand's, its category's, or of a node that a fact joins it to."""

    def __init__(self, number: Int32s, product_index: Int32s) -> None:
        order = np.argsort(number, kind="stable")
        self._number, self._product_index = number[order], product_index[order]

    def of(self, first: int, after: int) -> Int32s:
        """Return the products of the numbers from `first` to the one before `after`."""
        ends = np.array([first, after], self._number.dtype)  # of another type, all numbers would be cast
        start, end = np.searchsorted(self._number, ends)
        return self._product_index[start:end]


def _heads(edges: Edges, product_count: int) -> _ByNumber:
    """Return the products that facts of one relation go out from, by the node that they lead to."""
    head, tail = np.asarray(edges.head), np.asarray(edges.tail)
    of_products = head < product_count
    return _ByNumber(tail[of_products], head[of_products])


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """Return category paths as strings."""
    return pc.binary_join(column.combine_chunks(), CATEGORY_SEPARATOR)


def _numbered(column: pa.ChunkedArray | pa.Array) -> tuple[Int32s, dict[str, int]]:
    """Return the number of each row's name `[P]`, -1 where it has none, and the numbers."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = pc.if_else(pc.equal(array, ""), None, array).dictionary_encode()
    numbers = {name: number for number, name in enumerate(coded.dictionary.to_pylist())}
    return pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False), numbers


def _as_tree(category: Int32s, paths: dict[str, int]) -> tuple[Int32s, dict[str, tuple[int, int]]]:
    """Return categories `[P]` numbered in the order of their names, and what numbers each one and those below it have.

    These are the first of them and the one after the last.
    """
    in_order = sorted((tuple(path.split(CATEGORY_SEPARATOR)), number) for path, number in paths.items())
    subtrees: dict[str, tuple[int, int]] = {}
    renumbered = np.full(len(paths) + 1, -1, np.int32)  # the last one is that of no category
    for place, (names, number) in enumerate(in_order):
        renumbered[number] = place
        for depth in range(1, len(names) + 1):
            path = CATEGORY_SEPARATOR.join(names[:depth])
            first, _ = subtrees.get(path, (place, place))
            subtrees[path] = first, place + 1
    return renumbered[category], subtrees
