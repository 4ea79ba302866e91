"""A snapshot that goes on with the catalogue: products and facts as they are now, without a new export.

Indices of products stay valid: new products stand after all others, deleted ones keep their row and are taken out of
the vocabulary, so that nobody finds them. Other nodes stand after the products, so that their indices shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kg.edges import PRODUCT, edges_of, flat, kinds_and_ids, names_of, node_keys
from kg.freeze import catalogue_of
from kg.snapshot import Edges, Snapshot
from kg.taking import taken

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CatalogueChange:
    """Some products as they are now.

    Args:
        products: those that are in the catalogue, `kg.tables.PRODUCTS`.
        facts: every fact that one of them is an end of, `kg.tables.FACTS`; repeats do no harm.
        deleted: ids of those that are not.
    """

    products: pa.Table
    facts: pa.Table
    deleted: tuple[str, ...] = ()

    @property
    def product_ids(self) -> tuple[str, ...]:
        """The ids of all of them."""
        return (*self.products["product_id"].to_pylist(), *self.deleted)


@dataclass(frozen=True)
class Extension:
    """A changed snapshot, and what is other than before.

    Args:
        snapshot: with the products as they are now.
        before: the one that was changed.
        read_anew: product indices whose text or facts are other than before, new products and those that came back
            among them; ascending.
    """

    snapshot: Snapshot
    before: Snapshot
    read_anew: Int64s

    def then(self, following: "Extension") -> "Extension":
        """Return both changes as one."""
        read_anew = np.union1d(self.read_anew, following.read_anew)
        left = read_anew[~np.isin(read_anew, following.snapshot.products.taken_out)]
        return Extension(following.snapshot, self.before, left)


def extended(snapshot: Snapshot, change: CatalogueChange) -> Extension:
    """Return a snapshot with some products as they are now; histories, users and its content hash are as they were."""
    rows = change.products.combine_chunks()
    ids: list[str] = rows["product_id"].to_pylist()
    products = snapshot.products.changed(ids, change.deleted)
    place = products.indices(ids).astype(np.int64)
    old_count, count = len(snapshot.products), len(products)
    catalogue = _catalogue(snapshot.catalogue, catalogue_of(rows), place)

    edges = edges_of(rows, change.facts)
    of_products = node_keys(PRODUCT, products.array)
    of_nodes = node_keys(flat(snapshot.nodes["kind"]), flat(snapshot.nodes["id"]))
    # A product that is an end of facts without being in the catalogue stands among the other nodes.
    outside = pc.is_in(of_nodes, value_set=node_keys(PRODUCT, pa.array(change.product_ids, pa.string())))
    known = pa.concat_arrays([of_products, of_nodes])
    ends = edges.ends.unique()
    fresh = ends.filter(pc.invert(pc.is_in(ends, value_set=known)))
    kinds, node_ids = kinds_and_ids(fresh)
    fresh_nodes = pa.table({"kind": kinds, "id": node_ids, "name": names_of(kinds, node_ids)})
    nodes = pa.concat_tables([snapshot.nodes, fresh_nodes.cast(snapshot.nodes.schema)]).combine_chunks()

    node_count = count + len(nodes)
    stated = np.zeros(node_count, np.bool_)  # ends whose facts are stated anew
    gone = np.array([products.place(each) for each in change.deleted], np.int64)
    stated[place] = True
    stated[gone[gone >= 0]] = True
    stated[count : count + len(of_nodes)] = np.asarray(outside, bool)
    all_keys = pa.concat_arrays([known, fresh])
    both = pc.index_in(edges.ends, value_set=all_keys).to_numpy().astype(np.int64)
    head, tail = both[: len(edges.head)], both[len(edges.head) :]
    kept = {name: _shifted(each, old_count, count - old_count) for name, each in snapshot.facts.items()}
    facts, touched = _restated(kept, edges.relation, head, tail, stated, node_count)

    touched = touched[touched < count]
    others = place[place < old_count]
    before, after = (taken(table.select(["text"]), others)["text"] for table in (snapshot.catalogue, catalogue))
    other_text = others[np.asarray(pc.not_equal(before, after), bool)] if len(others) else others
    # While a product was away nobody read it, whatever became of it.
    came_back = place[np.isin(place, snapshot.products.taken_out)]
    read_anew = np.unique(np.concatenate([np.arange(old_count, count), came_back, touched, other_text]))
    changed = replace(snapshot, products=products, catalogue=catalogue, nodes=nodes, facts=facts)
    return Extension(changed, snapshot, read_anew[~np.isin(read_anew, products.taken_out)])


def _catalogue(before: pa.Table, rows: pa.Table, place: Int64s) -> pa.Table:
    """Return the catalogue with rows replaced at their places; those beyond its end are new, in order."""
    if not len(rows):
        return before
    count = max(len(before), int(place.max()) + 1)
    order = np.arange(count)
    order[place] = len(before) + np.arange(len(place))
    both = pa.concat_tables([before, rows.select(before.column_names).cast(before.schema)])
    return taken(both, order)


def _shifted(edges: Edges, product_count: int, by: int) -> tuple[Int64s, Int64s]:
    """Return head and tail with the nodes that are no products moved."""
    ends = (np.asarray(end, np.int64) for end in (edges.head, edges.tail))
    head, tail = (np.where(end >= product_count, end + by, end) for end in ends)
    return head, tail


def _restated(
    kept: Mapping[str, tuple[Int64s, Int64s]],
    relation: pa.ChunkedArray,
    head: Int64s,
    tail: Int64s,
    stated: npt.NDArray[np.bool_],
    node_count: int,
) -> tuple[dict[str, Edges], Int64s]:
    """Return the facts with those of `stated` ends replaced, by relation, and the ends of every fact that is other."""
    coded = flat(relation.dictionary_encode())
    names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    facts: dict[str, Edges] = {}
    other = [np.empty(0, np.int64)]
    nothing = np.empty(0, np.int64)
    for name in sorted({*kept, *names}):
        old_head, old_tail = kept.get(name, (nothing, nothing))
        stays = ~(stated[old_head] | stated[old_tail])
        old = old_head * node_count + old_tail
        chosen = codes == names.index(name) if name in names else np.zeros(len(codes), np.bool_)
        new = np.unique(head[chosen] * node_count + tail[chosen])
        # All are sorted; what is gone over is what was stated, not the many that stay.
        left, come = _without(old[~stays], new), _without(new, old)
        merged = old
        if len(left) or len(come):
            merged = np.sort(np.concatenate([_without(old, left), come]), kind="stable")
            for keys in (left, come):
                other += [keys // node_count, keys % node_count]
        if len(merged):
            facts[name] = Edges((merged // node_count).astype(np.int32), (merged % node_count).astype(np.int32))
    return facts, np.unique(np.concatenate(other))


def _without(keys: Int64s, others: Int64s) -> Int64s:
    """Return the keys that are not among others; both ascending."""
    if not len(others):
        return keys
    place = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    left: Int64s = keys[others[place] != keys]
    return left
