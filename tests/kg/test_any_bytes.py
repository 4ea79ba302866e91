"""Whatever a file holds, a load ends in clean tables or in one of our errors: never in another, never half-way."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kg.errors import KgrankError
from kg.quality import Policy, check
from kg.sources.amazon import read_amazon
from kg.sources.raw import Raw
from kg.sources.recbole import read_recbole
from kg.sources.tables import TableFiles, read_tables
from kg.tables import SCHEMAS

READERS: dict[str, Callable[[Path], Raw]] = {
    "interactions.csv": lambda path: read_tables(TableFiles(interactions=(path,))),
    "products.tsv": lambda path: read_tables(TableFiles(products=(path,))),
    "products.jsonl": lambda path: read_tables(TableFiles(products=(path,))),
    "facts.parquet": lambda path: read_tables(TableFiles(facts=(path,))),
    "reviews.json": lambda path: read_amazon([path]),
    "metadata.json": lambda path: read_amazon([], [path]),
    "data.inter": read_recbole,
    "data.item": read_recbole,
    "data.kg": read_recbole,
}
HEADERS: dict[str, bytes] = {
    "interactions.csv": b"user_id,product_id,type,at_ms,value\nu,p,view,1700000000000,1\n",
    "products.tsv": b"product_id\ttitle\tcategory\tprice\tattributes\n",
    "products.jsonl": b'{"product_id": "p", "category": ["a"], "attributes": {"k": 1}}\n',
    "facts.parquet": b"PAR1",
    "reviews.json": b'{"reviewerID": "u", "asin": "p", "overall": 5, "unixReviewTime": 1529193600}\n',
    "metadata.json": b'{"asin": "p", "price": "$1", "also_buy": ["q"], "category": ["a"]}\n',
    "data.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
    "data.item": b"item_id:token\ttitle:token_seq\tgenre:token_seq\tprice:float\n",
    "data.kg": b"head_id:token\trelation_id:token\ttail_id:token\n",
}

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_names = st.sampled_from(
    [
        *("product_id", "title", "category", "price", "attributes", "asin", "reviewerID", "overall", "reviewText"),
        *("unixReviewTime", "reviewTime", "user_id", "timestamp", "related", "also_buy", "details", "categories"),
    ]
)


def _lines(objects: list[dict[str, object]]) -> bytes:
    return "\n".join(json.dumps(item) for item in objects).encode()


_soup = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b"u", b"p", b"\t", b",", b'"', b"\n", b"1e400", b"-1", b"2014-13-01", b"\xff", b"{}", b"\r", b"["]
    ),
    max_size=60,
).map(b"".join)
_objects = st.lists(st.dictionaries(_names, _json, max_size=6), max_size=5).map(_lines)


@pytest.mark.parametrize("name", sorted(READERS))
@given(soup=_soup | _objects, headed=st.booleans(), packed=st.booleans())
@example(soup=b"", headed=True, packed=False)
@example(soup=b"\r\x01", headed=False, packed=False)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_end_in_clean_tables_or_our_error(
    name: str, soup: bytes, headed: bool, packed: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    data = HEADERS[name] + soup if headed else soup
    path.write_bytes(gzip.compress(data) if packed else data)
    try:
        result = check(READERS[name](path), Policy())
    except KgrankError:
        return
    for table_name, table in result.tables:
        table.validate(full=True)
        assert table.schema.equals(SCHEMAS[table_name])
        for field in table.schema:
            assert field.nullable or not table[field.name].null_count
    for count in result.report.tables.values():
        assert count.read == count.kept + count.refused + count.duplicate + count.dropped
