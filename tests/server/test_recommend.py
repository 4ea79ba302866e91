import pytest

from kgrank.client import Client
from tests.server.shop import Shop


def test_results_are_the_best_of_the_whole_catalogue_in_order(client: Client, shop: Shop) -> None:
    answer = client.recommend("user-03", k=5, exclude_seen=False)
    scores = [result.score for result in answer.results]
    everything = client.rank("user-03", shop.snapshot.products.array.to_pylist())
    assert [result.product_id for result in answer.results] == [each.product_id for each in everything.results[:5]]
    assert scores == sorted(scores, reverse=True)


def test_components_add_up_to_the_score(client: Client) -> None:
    for result in client.recommend("user-03", k=20, exclude_seen=False).results:
        parts = result.components
        assert parts.graph + parts.text + parts.history + parts.popularity == pytest.approx(result.score, abs=1e-4)
