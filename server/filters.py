"""Which products a request lets through: masks over the catalogue, from columns that are laid out once.

What a filter names and the catalogue does not have (a brand, a category, an attribute) matches nothing. Filters repeat
from call to call, so that the last masks are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable

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

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class CatalogueFilters:
    """The catalogue of a snapshot, laid out for filtering. Safe to share between threads; masks are not to be changed.

    Args:
        snapshot: its catalogue, and its `HAS_BRAND`, `IN_CATEGORY` and `HAS_ATTRIBUTE` facts.

    Shapes: `brand [P]` and `category [P]` number each product's brand and the deepest category that it is in, -1
    where it has none.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        catalogue = snapshot.catalogue
        self._count = len(snapshot.products)
        self.brand, self._brands = _numbered(catalogue["brand"])
        self.category, paths = _numbered(_joined(catalogue["category"]))
        self._subtrees = _subtrees(paths)
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
            kind: _Tails(snapshot.facts[relation], self._count)
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
        below = [self._subtrees[path] for path in wanted if path in self._subtrees]
        mask = np.isin(self.category, np.concatenate(below)) if below else np.zeros(self._count, np.bool_)
        return self._with_facts(mask, CATEGORY, wanted)

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
                    mask[facts.heads(node)] = True
        return mask


def _named(wanted: Filter) -> int:
    """Return how many characters the names in a filter have."""
    attributes = (each for key, values in wanted.attributes for each in (key, *values))
    return sum(map(len, (*wanted.categories, *wanted.brands, *attributes)))


class _Tails:
    """The facts of one relation from products, by their tail."""

    def __init__(self, edges: Edges, product_count: int) -> None:
        of_products = np.asarray(edges.head) < product_count
        head, tail = np.asarray(edges.head)[of_products], np.asarray(edges.tail)[of_products]
        order = np.argsort(tail, kind="stable")
        self._head, self._tail = head[order], tail[order]

    def heads(self, node: int) -> npt.NDArray[np.int32]:
        """Return the products that are joined to a node."""
        start, end = np.searchsorted(self._tail, [node, node + 1])
        return self._head[start:end]


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """Return category paths as strings."""
    return pc.binary_join(column.combine_chunks(), CATEGORY_SEPARATOR)


def _numbered(column: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.int32], dict[str, int]]:
    """Return the number of each row's name `[P]`, -1 where it has none, and the numbers."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = pc.if_else(pc.equal(array, ""), None, array).dictionary_encode()
    numbers = {name: number for number, name in enumerate(coded.dictionary.to_pylist())}
    return pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False), numbers


def _subtrees(paths: dict[str, int]) -> dict[str, Int64s]:
    """Return the numbers of the paths in each category or below it."""
    found: dict[str, list[int]] = {}
    for path, number in paths.items():
        names = path.split(CATEGORY_SEPARATOR)
        for depth in range(1, len(names) + 1):
            found.setdefault(CATEGORY_SEPARATOR.join(names[:depth]), []).append(number)
    return {path: np.array(numbers) for path, numbers in found.items()}
