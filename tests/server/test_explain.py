import pytest

from kg.snapshot import Snapshot
from kgrank.client import Client
from kgrank.errors import NotFoundError
from kgrank.v1 import common_pb2
from tests.server.shop import Shop


def test_explanation_agrees_with_the_ranking(client: Client, shop: Shop) -> None:
    everything = client.rank("user-08", shop.snapshot.products.array.to_pylist()).results
    for place in (0, 7, 89):
        explained = client.explain("user-08", everything[place].product_id)
        assert explained.rank == place + 1
        assert explained.result.score == pytest.approx(everything[place].score, abs=1e-4)
        assert explained.result.title


def test_every_hop_of_every_reason_exists(client: Client, shop: Shop) -> None:
    found = 0
    for user in range(0, 40, 5):
        for result in client.recommend(f"user-{user:02}", k=10, reasons=True).results:
            for reason in result.reasons:
                found += 1
                assert reason.text
                assert reason.nodes[0].id == f"user-{user:02}"
                assert reason.nodes[-1].id == result.product_id
                assert len(reason.nodes) == len(reason.edges) + 1
                for place, edge in enumerate(reason.edges):
                    assert exists(shop.snapshot, reason.nodes[place], edge, reason.nodes[place + 1])
    assert found > 50


def exists(snapshot: Snapshot, before: common_pb2.Node, edge: common_pb2.Edge, after: common_pb2.Node) -> bool:
    head, tail = (before, after) if edge.direction == common_pb2.Edge.DIRECTION_FORWARD else (after, before)
    if head.kind == "user":
        row = snapshot.histories.rows(snapshot.users.index(head.id))
        return tail.id in snapshot.products.ids(snapshot.histories.product_index[row])
    edges = snapshot.facts[edge.relation]
    pairs = zip(edges.head.tolist(), edges.tail.tolist(), strict=True)
    return (node_index(snapshot, head), node_index(snapshot, tail)) in set(pairs)


def node_index(snapshot: Snapshot, node: common_pb2.Node) -> int:
    if node.kind == "product":
        return snapshot.products.index(node.id)
    keys = list(zip(snapshot.nodes["kind"].to_pylist(), snapshot.nodes["id"].to_pylist(), strict=True))
    return len(snapshot.products) + keys.index((node.kind, node.id))


def test_the_number_of_reasons_is_bounded(client: Client) -> None:
    assert len(client.explain("user-09", "product-12", max_reasons=1).result.reasons) <= 1


def test_similar_products_have_reasons_from_the_product(client: Client) -> None:
    reasons = [
        reason
        for result in client.similar_products("product-11", k=5, reasons=True).results
        for reason in result.reasons
    ]
    assert reasons
    assert {reason.nodes[0].id for reason in reasons} == {"product-11"}


def test_an_unknown_product_is_not_found(client: Client) -> None:
    with pytest.raises(NotFoundError) as explained:
        client.explain("user-09", "ghost")
    assert explained.value.reason == "UNKNOWN_PRODUCT"
    with pytest.raises(NotFoundError):
        client.similar_products("ghost")
