"""What NVIDIA Merlin's systems and transformers leave to their callers: each an answer here.

Of a server that was not attacked: requests of chance make rules too, which may block what these tests look for.
"""

import asyncio
from pathlib import Path
from runpy import run_path

import pytest

from kg.extending import CatalogueChange
from kg.tables import FACTS, PRODUCTS
from kgrank.client import Client, event
from kgrank.errors import InvalidRequestError, NotFoundError
from kgrank.v1 import common_pb2
from kgrank.v1.ranking_service_pb2 import RecommendRequest, RecommendResponse
from tests.server.running import running
from tests.server.shop import Shop

EXAMPLE = Path(__file__).parents[2] / "examples" / "client.py"


def test_an_unknown_user_gets_a_cold_answer(client: Client) -> None:
    answer = client.recommend("nobody-ever-heard-of", k=5)
    assert (len(answer.results), answer.user_state) == (5, common_pb2.USER_STATE_COLD)


def test_k_above_the_catalogue_gives_the_whole_catalogue_once(served: str) -> None:
    with Client(served) as client:
        ids = [each.product_id for each in client.recommend("merlin", k=1000).results]
    assert len(ids) == len(set(ids)) == 90


def test_fewer_candidates_than_k_are_all_that_come(client: Client) -> None:
    assert len(client.rank("user-01", ["product-03", "product-04"], k=50).results) == 2


def test_a_candidate_that_is_not_there_is_named_and_the_others_are_ranked(client: Client) -> None:
    answer = client.rank("user-01", ["product-03", "no-such-thing"])
    assert ([each.product_id for each in answer.results], answer.missing_ids) == (["product-03"], ["no-such-thing"])


def test_candidates_that_are_all_unknown_give_an_empty_answer(client: Client) -> None:
    answer = client.rank("user-01", ["no-such-thing", "nor-this"])
    assert (len(answer.results), list(answer.missing_ids)) == (0, ["no-such-thing", "nor-this"])


def test_null_ids_are_named(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.rank("user-01", ["", "product-03", "\x00"])
    assert {each.field for each in refused.value.violations} == {"product_ids[0]", "product_ids[2]"}
    with pytest.raises(InvalidRequestError):
        client.write_event(event("", "product-03"))
    assert client.recommend("", k=3).results  # nobody in particular is somebody


def test_nothing_left_to_rank_is_an_empty_answer(client: Client) -> None:
    everything = [f"product-{number:02}" for number in range(90)]
    others = client.recommend("user-01", k=5, allowed_product_ids=everything[:5], exclude_product_ids=everything[:5])
    assert not others.results


def test_a_catalogue_with_no_product_left_is_answered_from(
    shop: Shop, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = [f"product-{number:02}" for number in range(90)]
    gone = CatalogueChange(PRODUCTS.empty_table(), FACTS.empty_table(), tuple(everything))
    with running(home) as server, Client(server.target, timeout_s=60) as client:
        assert client.recommend("user-01", k=1).results
        changing = server.server._serving.catalogue_changed(gone)
        asyncio.run_coroutine_threadsafe(changing, server.loop).result(60)
        empty_answers(client, everything)
        monkeypatch.setenv("KGRANK_TARGET", server.target)
        run_path(str(EXAMPLE))["main"]("user-01")
        assert capsys.readouterr().out.endswith("nothing left to recommend\n")
        # Nor does a model mind that comes into service over nothing.
        active = client.recommend("user-01").model_version
        other = next(version for version in shop.versions if version != active)
        client.activate_model(f"models/{other}")
        assert client.recommend("user-01").model_version == other
        empty_answers(client, everything)


def empty_answers(client: Client, missing: list[str]) -> None:
    """Ask everything of a server without products."""
    context = common_pb2.Context(seed_product_ids=["product-03"], query="red thing", categories=["Things"])
    chosen = common_pb2.Filter(brands=["Acme"], price=common_pb2.PriceRange(min=1.0), only_available=True)
    mix = common_pb2.Mix(diversity=0.5, max_per_brand=1, exploration_share=0.5)
    for user_id in ("user-01", "newcomer", "nobody-at-all", ""):
        plain = client.recommend(user_id, k=5)
        assert (len(plain.results), list(plain.missing_ids)) == (0, [])
        asked = client.recommend(user_id, k=1000, context=context, filter=chosen, mix=mix, reasons=True, details=True)
        assert (len(asked.results), list(asked.missing_ids)) == (0, ["product-03"])
        assert not client.search("acme thnig", user_id, k=5).results
        assert not client.search("thing 12", user_id, k=5, filter=chosen, mix=mix, reasons=True).results
        ranked = client.rank(user_id, missing, reasons=True)
        assert (len(ranked.results), list(ranked.missing_ids)) == (0, missing)
        with pytest.raises(NotFoundError):
            client.explain(user_id, "product-03")
    ((_, batched),) = client.batch_recommend([RecommendRequest(user_id="user-01", k=3)])
    assert isinstance(batched, RecommendResponse)
    assert not batched.results
    with pytest.raises(NotFoundError):
        client.similar_products("product-03")


def test_an_unknown_product_to_be_like_or_to_be_explained_is_not_found(client: Client) -> None:
    for asked in (lambda: client.similar_products("no-such-thing"), lambda: client.explain("user-01", "no-such-thing")):
        with pytest.raises(NotFoundError):
            asked()


def test_a_candidate_given_twice_is_ranked_once(client: Client) -> None:
    assert len(client.rank("user-01", ["product-03"] * 5).results) == 1


def test_a_damaged_history_in_the_request_is_refused_by_its_field(client: Client) -> None:
    nan = common_pb2.Context(
        events=[
            common_pb2.ContextEvent(product_id="product-03", type=common_pb2.INTERACTION_TYPE_RATE, value=float("nan"))
        ]
    )
    with pytest.raises(InvalidRequestError) as refused:
        client.recommend("user-01", context=nan)
    assert {each.field for each in refused.value.violations} == {"context.events[0].value"}
