"""A fact that is stated online changes scores and reasons, by a relation that the model has learned."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from kg.freeze import freeze
from kg.store import Graph
from kg.tables import FACTS, Tables
from kgrank.client import Client, fact, product
from kgrank.v1.common_pb2 import Context, Filter, Result
from tests.server.running import running
from tests.server.shop import Shop, tables, train_shortly
from tests.server.test_catalogue import serving, wait_until_prepared
from tests.waiting import until

GOES_WITH = "GOES_WITH"


def linked_tables() -> Tables:
    """Return the shop's tables, with a fact between one product and the next for the first half of them."""
    made = tables()
    ids = made.products["product_id"].to_pylist()[:46]
    pairs = zip(ids[::2], ids[1::2], strict=True)
    rows = [(head, GOES_WITH, tail, "product", "product") for head, tail in pairs]
    facts = pa.table(dict(zip(FACTS.names, zip(*rows, strict=True), strict=True)), schema=FACTS)
    return replace(made, facts=facts)


@pytest.fixture
def linked(shop: Shop, tmp_path: Path) -> Path:
    """A home with a model that has learned from those facts."""
    shutil.copytree(shop.home / "cache", tmp_path / "home" / "cache")
    snapshot = freeze(linked_tables())
    snapshot.save(tmp_path / "home" / "snapshots" / snapshot.content_hash[:12])
    train_shortly(tmp_path / "home" / "artifacts", snapshot, seed=1)
    return tmp_path / "home"


def relations(result: Result) -> set[str]:
    return {edge.relation for reason in result.reasons for edge in reason.edges}


@pytest.mark.neo4j
def test_a_fact_changes_the_score_and_the_reasons_until_it_is_taken_back(linked: Path, graph: Graph) -> None:
    graph.load(linked_tables())
    seen = Context(seed_product_ids=["product-70"])
    link = fact("product-70", GOES_WITH, "product-72")
    with running(linked, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        wait_until_prepared(server)

        def explained() -> Result:
            return client.explain("", "product-72", context=seen).result

        before = explained()
        assert GOES_WITH not in relations(before)
        assert client.upsert_facts([link]) == 1
        until(lambda: GOES_WITH in relations(explained()))
        # Both products have become part of what the other one is, by the propagation that the model was trained with.
        stated = explained().components.graph
        assert stated > before.components.graph + 0.01
        assert client.delete_facts([link]) == 1
        until(lambda: GOES_WITH not in relations(explained()))
        # Not the same to the last digit: what was changed is computed alone, without the echo (docs/catalogue.md).
        assert abs(explained().components.graph - before.components.graph) < (stated - before.components.graph) / 2


@pytest.mark.neo4j
def test_what_a_file_told_by_a_relation_of_fields_is_removed_and_the_fields_facts_stay(
    home: Path, graph: Graph
) -> None:
    told = [
        fact("product-01", "HAS_ATTRIBUTE", "season=winter", tail_kind="attribute"),
        fact("product-01", "HAS_BRAND", "Bolt", tail_kind="brand"),  # which is its brand, too
        fact("product-01", "HAS_BRAND", "CoBrand", tail_kind="brand"),
    ]
    rows = [(each.head.id, each.relation, each.tail.id, each.head.kind, each.tail.kind) for each in told]
    facts = pa.table(dict(zip(FACTS.names, zip(*rows, strict=True), strict=True)), schema=FACTS)
    graph.load(replace(tables(), facts=facts))
    brands = [["Bolt"], ["CoBrand"]]
    with serving(home, graph) as client:

        def found_by(brand: list[str]) -> bool:
            listed = client.recommend(k=90, filter=Filter(brands=brand)).results
            return "product-01" in [each.product_id for each in listed]

        client.upsert_products([product("product-01", brand="Acme")], ["brand"])
        until(lambda: all(map(found_by, brands)))
        assert list(client.list_facts("product-01").facts) == told
        own = fact("product-01", "HAS_BRAND", "Acme", tail_kind="brand")
        assert client.delete_facts([*told, own]) == len(told)
        assert not client.list_facts("product-01").facts
        until(lambda: not any(map(found_by, brands)))
        assert found_by(["Acme"])
