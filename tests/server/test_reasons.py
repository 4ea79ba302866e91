"""Which products of a long history are weighed for the results of one answer."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from kg.freeze import freeze
from kg.tables import FACTS, PRODUCTS, Tables
from kgrank.client import Client, event
from tests.server.running import running
from tests.server.shop import HOUR_MS, START_MS, Shop, tables, train_shortly

RESULTS = [f"result-{number}" for number in range(5)]
HAD = [f"product-{number:02}" for number in range(30)]


def apart() -> Tables:
    """Return tables in which facts alone lead to each of five products that nobody has had: from six others each."""
    made = tables(len(HAD))
    rows = made.products.to_pylist()
    rows += [{**rows[0], "product_id": each, "title": each} for each in RESULTS]
    products = pa.Table.from_pylist([{**row, "brand": "", "category": [], "attributes": []} for row in rows], PRODUCTS)
    facts = [
        {"head": head, "relation": "GOES_WITH", "tail": RESULTS[place // 6], "head_kind": "product"}
        for place, head in enumerate(HAD)
    ]
    facts_table = pa.Table.from_pylist([{**each, "tail_kind": "product"} for each in facts], FACTS)
    return replace(made, products=products, facts=facts_table)


def test_every_result_keeps_a_reason_however_many_products_lead_to_those_before_it(shop: Shop, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(shop.home / "cache", home / "cache")
    snapshot = freeze(apart())
    snapshot.save(home / "snapshots" / snapshot.content_hash[:12])
    train_shortly(home / "artifacts", snapshot, seed=1)
    with running(home) as server, Client(server.target) as client:
        client.write_events(
            [event("collector", each, "view", at_ms=START_MS + place * HOUR_MS) for place, each in enumerate(HAD)]
        )
        results = client.rank("collector", RESULTS, reasons=True).results
        alone = [client.rank("collector", [each.product_id], reasons=True).results[0] for each in results]
    assert len(results) == 5
    for result, by_itself in zip(results, alone, strict=True):
        assert by_itself.reasons
        assert result.reasons
