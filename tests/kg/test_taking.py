"""Tables with more text than one Arrow array holds: read in slices, with the same outcome as at once."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.edges import edges_of
from kg.extending import CatalogueChange, extended
from kg.freeze import freeze
from kg.quality.identity import event_ids
from kg.tables import FACTS, PRODUCTS, Tables
from kg.taking import taken
from tests.kg.small_tables import SMALL

WORDS = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=5)


@given(st.lists(WORDS, max_size=5), st.data(), st.sampled_from([1, 2, 100]))
def test_rows_are_those_that_arrow_takes(chunks: list[list[str | None]], data: st.DataObject, at_once: int) -> None:
    column = pa.chunked_array(chunks, pa.string())
    table = pa.table({"text": column, "number": pa.array(range(len(column)))})
    rows = st.lists(st.integers(0, len(column) - 1), max_size=12) if len(column) else st.just(list[int]())
    order = pa.array(data.draw(rows), pa.int64())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kg.taking._ROWS_AT_ONCE", at_once)
        assert taken(table, order.to_numpy()).equals(table.take(order))


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_is_read_in_slices_is_the_same(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = SMALL.products.take([2, 0, 1])
    products = pa.concat_tables([turned.slice(0, 1), turned.slice(1)])
    tables = Tables(interactions=SMALL.interactions, products=products, facts=SMALL.facts, users=SMALL.users)
    new = [{"product_id": "pot", "title": "Pot", "description": "", "brand": "Clay", "category": ["Tea", "Pots"]}]
    rows = [row | {"price": 2.0, "available": None, "attributes": [("size", "L")]} for row in new]
    change = CatalogueChange(pa.Table.from_pylist(rows, PRODUCTS), FACTS.empty_table(), ("cup",))
    events = {name: SMALL.interactions[name].combine_chunks() for name in SMALL.interactions.column_names}
    whole = freeze(tables)
    changed = extended(whole, change).snapshot
    ids = event_ids(events)
    monkeypatch.setattr("kg.taking._ROWS_AT_ONCE", at_once)
    sliced = freeze(tables)
    assert sliced.content_hash == whole.content_hash == freeze(SMALL).content_hash
    assert sliced.catalogue["text"].num_chunks == 1
    again = extended(sliced, change).snapshot
    assert (again.catalogue, again.nodes) == (changed.catalogue, changed.nodes)
    assert {name: each.head.tolist() for name, each in again.facts.items()} == {
        name: each.head.tolist() for name, each in changed.facts.items()
    }
    assert event_ids(events).equals(ids)
    assert edges_of(products, SMALL.facts).head.num_chunks > len(SMALL.facts) // at_once


def test_descriptions_of_more_than_two_gibibytes_are_no_obstacle() -> None:
    # One text that all rows share: it takes the memory of one.
    description = pa.array([f"It shines. {'x' * (1 << 20)}"])
    count = (1 << 31) // (1 << 20) + 1
    rows = [
        {"product_id": f"{count - place:05}", "title": "Lamp", "description": "", "brand": "", "category": []}
        for place in range(count)
    ]
    table = pa.Table.from_pylist([row | {"attributes": []} for row in rows], PRODUCTS)
    place = PRODUCTS.get_field_index("description")
    products = table.set_column(place, PRODUCTS.field(place), pa.chunked_array([description] * count))
    assert pc.sum(pc.binary_length(products["description"])).as_py() > 1 << 31
    snapshot = freeze(Tables(products=products))
    assert snapshot.products.ids([0, count - 1]) == ["00001", f"{count:05}"]
    assert set(map(len, snapshot.catalogue["text"].to_pylist())) == {len("Lamp. ") + 300}
