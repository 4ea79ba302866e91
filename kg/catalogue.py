"""Products of the graph one by one: written, read and taken out online, each call one numbered transaction.

A product that is taken out leaves its node, with nothing but its id and the time, and what users did with it: events on
their way to the graph still find it, and do not bring it back.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kg import schema
from kg.commits import KEPT_PLAN, ChangeKind, Commit
from kg.exporting import fact_relations, facts_of
from kg.extending import CatalogueChange
from kg.loading import Loader, promote_entities, write_products
from kg.progress import SILENT
from kg.tables import FACTS, PRODUCTS
from kg.whole_rows import whole_rows

if TYPE_CHECKING:
    from kg.store import Graph, Result

MASKABLE = ("title", "description", "brand", "category", "price", "available", "attributes")
"""What can be changed of a product."""

_COLUMNS = (
    "p.id, p.title, p.description, p.brand, p.category, p.attribute_keys, p.attribute_values, "
    "p.price, p.available, p.updated_at"
)
_ALWAYS = range(7)
"""Which of the columns every product has."""
_PAIRED = (5, 6)
"""The keys and the values of its attributes."""
_AT_ONCE = 1_000
"""Products whose state is read together."""
_PRESENT = "p.attribute_keys IS NOT NULL"
"""What is there of a product that the catalogue has, and of no other (see `take_out`)."""


@dataclass(frozen=True)
class Product:
    """A product of the catalogue; `price` and `available` are None where nobody said, `attributes` sorted by key."""

    product_id: str
    title: str = ""
    description: str = ""
    brand: str = ""
    category: tuple[str, ...] = ()
    price: float | None = None
    available: bool | None = None
    attributes: tuple[tuple[str, str], ...] = ()

    def row(self) -> dict[str, Any]:
        """Return it as a row of `kg.tables.PRODUCTS`."""
        return asdict(self) | {"category": list(self.category), "attributes": list(self.attributes)}


@dataclass(frozen=True)
class StoredProduct:
    """A product and when it was written online last, ms since the epoch; None: files have made or changed it since."""

    product: Product
    updated_at_ms: int | None


class Written(Enum):
    """What became of a product."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


class _InCommit:
    """The part of `Graph` that loading needs, inside one transaction."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def read(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        return self._commit.run(cypher, **parameters).rows

    def write(self, cypher: str, rows: Sequence[Any] | None = None, **parameters: Any) -> "Result":
        return self._commit.run(cypher, rows, **parameters)


def loader_in(commit: Commit) -> Loader:
    """Return a loader that writes inside a commit."""
    return Loader(_InCommit(commit), SILENT)


def upsert(graph: "Graph", products: Sequence[Product], changing: Collection[str] = MASKABLE) -> list[Written]:
    """Add products or change them, all in one transaction; return what became of each.

    An unchanged one that files have made or changed is told to the servers, too: no load tells them.

    Args:
        graph: an open graph.
        products: none twice.
        changing: which fields of products that are there already take the new value; new products take all.
    """

    def work(commit: Commit) -> list[Written]:
        now_ms = time.time_ns() // 1_000_000
        known = {each.product.product_id: each for each in stored_in(commit, [p.product_id for p in products])}
        written, changed, told = [], [], []
        for given in products:
            stored = known.get(given.product_id)
            old = None if stored is None else stored.product
            new = given if old is None else replace(old, **{name: getattr(given, name) for name in changing})
            became = Written.CREATED if old is None else Written.UNCHANGED if new == old else Written.UPDATED
            written.append(became)
            if became is not Written.UNCHANGED:
                changed.append(new)
            if became is not Written.UNCHANGED or (stored is not None and stored.updated_at_ms is None):
                told.append(new.product_id)
                commit.note(ChangeKind.PRODUCT, new.product_id)
        if changed:
            loader = loader_in(commit)
            write_products(loader, [each.row() for each in changed])
            promote_entities(loader, [each.product_id for each in changed if each.product_id not in known])
        if told:
            commit.run("UNWIND $rows AS id MATCH (p:Product {id: id}) SET p.updated_at = $now", told, now=now_ms)
        return written

    return graph.commit(work)


def take_out(graph: "Graph", product_ids: Sequence[str]) -> list[str]:
    """Take products out of the catalogue, all in one transaction; return those that were there.

    Their facts and published recommendations go; what users did with them stays.
    """
    names = {schema.relation_name(name) for name in fact_relations(graph)}
    relations = "|".join(sorted({*names, schema.RECOMMENDED.type}))

    def work(commit: Commit) -> list[str]:
        there = [each.product.product_id for each in stored_in(commit, product_ids)]
        commit.run(
            "UNWIND $rows AS id MATCH (p:Product {id: id}) USING INDEX SEEK p:Product(id) "
            f"CALL (p) {{ MATCH (p)-[r:{relations}]-() DELETE r }} "
            "WITH p SET p = {id: p.id, deleted_at: $now}",
            there,
            now=time.time_ns() // 1_000_000,
        )
        for product_id in there:
            commit.note(ChangeKind.PRODUCT_DELETED, product_id)
        return there

    return graph.commit(work)


def find(graph: "Graph", product_ids: Sequence[str]) -> list[StoredProduct]:
    """Return those of some products that the catalogue has, in the order asked."""
    return _found(whole_rows(lambda: graph.read(_FIND, rows=list(product_ids)), _ALWAYS, alike=_PAIRED, steady=True))


def page(graph: "Graph", after: str, size: int) -> list[StoredProduct]:
    """Return the products whose ids come after one, in the order of ids."""
    query = f"MATCH (p:Product) WHERE p.id > $after AND {_PRESENT} RETURN {_COLUMNS} ORDER BY p.id LIMIT $size"
    return _found(whole_rows(lambda: graph.read(query, after=after, size=size), _ALWAYS, alike=_PAIRED, steady=True))


def as_they_are(graph: "Graph", product_ids: Iterable[str]) -> CatalogueChange:
    """Return some products as the graph has them now, for `kg.extending.extended`.

    One that is not in the catalogue may still be an end of facts, as files told them. Of many, some are read before
    others: what is committed meanwhile may be in it, and comes once more with the commits that follow.
    """
    asked = list(dict.fromkeys(product_ids))
    pages = [_page_as_it_is(graph, asked[start : start + _AT_ONCE]) for start in range(0, len(asked), _AT_ONCE)]
    return CatalogueChange(
        pa.concat_tables([PRODUCTS.empty_table(), *(page.products for page in pages)]),
        pa.concat_tables([FACTS.empty_table(), *(page.facts for page in pages)]),
        tuple(each for page in pages for each in page.deleted),
    )


def _page_as_it_is(graph: "Graph", asked: Sequence[str]) -> CatalogueChange:
    found = [each.product for each in find(graph, asked)]
    there = {each.product_id for each in found}
    products = pa.Table.from_pylist([each.row() for each in found], PRODUCTS)
    deleted = tuple(each for each in asked if each not in there)
    facts = pa.concat_tables([facts_of(graph, sorted(there)), facts_of(graph, deleted, outside=True)])
    return CatalogueChange(products, facts, deleted)


_FIND = (
    f"{KEPT_PLAN}UNWIND $rows AS id MATCH (p:Product {{id: id}}) USING INDEX SEEK p:Product(id) "
    f"WITH p WHERE {_PRESENT} RETURN {_COLUMNS}"
)


def stored_in(commit: Commit, product_ids: Sequence[str]) -> list[StoredProduct]:
    """Return those of some products that the catalogue has, inside a commit."""
    return _found(commit.run(_FIND, list(product_ids)).rows)


def _found(rows: list[list[Any]]) -> list[StoredProduct]:
    found = []
    for product_id, title, description, brand, category, keys, values, price, available, updated_at in rows:
        pairs = tuple(sorted(zip(keys, values, strict=True)))
        product = Product(product_id, title, description, brand, tuple(category), price, available, pairs)
        found.append(StoredProduct(product, updated_at))
    return found
