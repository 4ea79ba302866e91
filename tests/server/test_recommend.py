import numpy as np
import pytest

from kgrank.client import Client
from kgrank.v1 import common_pb2
from tests.server.shop import PRODUCT_COUNT, Shop


def ids(results: "object") -> list[str]:
    return [result.product_id for result in results]  # type: ignore[attr-defined]  # repeated results of any response


def test_results_are_the_best_of_the_whole_catalogue_in_order(client: Client, shop: Shop) -> None:
    answer = client.recommend("user-03", k=5, exclude_seen=False)
    everything = client.rank("user-03", shop.snapshot.products.array.to_pylist())
    assert ids(answer.results) == ids(everything.results[:5])
    scores = [result.score for result in everything.results]
    assert scores == sorted(scores, reverse=True)


def test_components_add_up_to_the_score(client: Client) -> None:
    results = client.recommend("user-03", k=20, exclude_seen=False).results
    assert len(results) == 20
    for result in results:
        parts = result.components
        # `query` is there where another test has searched as this user on the server that they share.
        whole = sum(getattr(parts, part.name) for part in parts.DESCRIPTOR.fields)
        assert whole == pytest.approx(result.score, abs=1e-4)


def test_seen_products_are_left_out_unless_asked_for(client: Client, shop: Shop) -> None:
    row = shop.snapshot.histories.rows(shop.snapshot.users.index("user-03"))
    seen = set(shop.snapshot.products.ids(shop.snapshot.histories.product_index[row]))
    without = set(ids(client.recommend("user-03", k=1000).results))
    assert without == set(shop.snapshot.products.array.to_pylist()) - seen
    assert len(client.recommend("user-03", k=1000, exclude_seen=False).results) == PRODUCT_COUNT


def test_excluded_products_are_left_out(client: Client) -> None:
    best = ids(client.recommend("user-04", k=3).results)
    rest = ids(client.recommend("user-04", k=3, exclude_product_ids=best).results)
    assert len(rest) == 3
    assert not set(best) & set(rest)


def test_only_allowed_products_are_ranked(client: Client) -> None:
    allowed = ["product-80", "product-81", "product-82"]
    answer = client.recommend("user-05", k=10, allowed_product_ids=[*allowed, "no-such-product"], exclude_seen=False)
    assert sorted(ids(answer.results)) == allowed
    assert list(answer.missing_ids) == ["no-such-product"]


def test_everything_excluded_is_an_empty_answer(client: Client, shop: Shop) -> None:
    answer = client.recommend("user-05", exclude_product_ids=shop.snapshot.products.array.to_pylist())
    assert not answer.results


def test_unknown_user_gets_a_cold_answer(client: Client) -> None:
    answer = client.recommend("nobody-has-this-id", k=4)
    assert answer.user_state == common_pb2.USER_STATE_COLD
    assert len(answer.results) == 4
    assert ids(answer.results) == ids(client.recommend("", k=4).results)


def test_the_answer_says_how_the_user_was_known(client: Client) -> None:
    seeds = common_pb2.Context(seed_product_ids=["product-07"])
    unknown = common_pb2.Context(seed_product_ids=["no-such-product"])
    assert client.recommend("user-03").user_state == common_pb2.USER_STATE_WARM
    assert client.recommend("newcomer").user_state == common_pb2.USER_STATE_FEW_EVENTS
    assert client.recommend(context=seeds).user_state == common_pb2.USER_STATE_CONTEXT_ONLY
    assert client.recommend(context=unknown).user_state == common_pb2.USER_STATE_COLD


def test_seed_products_steer_the_answer_and_are_not_in_it(client: Client) -> None:
    cold = client.recommend(k=5)
    steered = client.recommend(k=90, context=common_pb2.Context(seed_product_ids=["product-10", "product-13"]))
    assert ids(steered.results[:5]) != ids(cold.results)
    assert not {"product-10", "product-13"} & set(ids(steered.results))


def test_context_events_count_as_history_of_this_request_only(client: Client) -> None:
    told = common_pb2.Context(
        events=[common_pb2.ContextEvent(product_id="product-20", type=common_pb2.INTERACTION_TYPE_PURCHASE)]
    )
    before = client.recommend("user-06", k=8)
    during = client.recommend("user-06", k=8, context=told)
    after = client.recommend("user-06", k=8)
    assert [each.score for each in during.results] != [each.score for each in before.results]
    assert ids(after.results) == ids(before.results)


def test_unknown_ids_of_the_request_are_listed_once(client: Client) -> None:
    answer = client.recommend(
        "user-01",
        exclude_product_ids=["ghost-b", "ghost-a", "ghost-b"],
        context=common_pb2.Context(seed_product_ids=["ghost-a", "product-01"]),
    )
    assert sorted(answer.missing_ids) == ["ghost-a", "ghost-b"]


def test_details_and_reasons_come_when_asked_for(client: Client) -> None:
    plain = client.recommend("user-02").results[0]
    full = client.recommend("user-02", details=True, reasons=True).results[0]
    assert not plain.title
    assert not plain.reasons
    assert full.title.startswith("Thing ")
    assert full.brand in {"Acme", "Bolt", "Cora"}
    assert full.product_id == plain.product_id


def test_rank_orders_candidates_once_each_and_lists_unknown_ones(client: Client) -> None:
    answer = client.rank("user-07", ["product-04", "product-01", "ghost", "product-04"])
    assert sorted(ids(answer.results)) == ["product-01", "product-04"]
    assert list(answer.missing_ids) == ["ghost"]
    assert ids(client.rank("user-07", ["product-04", "product-01"], k=1).results) == ids(answer.results[:1])


def test_concurrent_answers_are_what_each_would_be_alone(client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    users = [f"user-{number % 40:02}" for number in range(80)]
    alone = {user: ids(client.recommend(user).results) for user in set(users)}
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda user: ids(client.recommend(user).results), users))
    assert together == [alone[user] for user in users]


def test_every_answer_has_a_model_version_and_a_token_of_its_own(client: Client, shop: Shop) -> None:
    answers = [client.recommend("user-01") for _ in range(3)]
    assert {answer.model_version for answer in answers} <= set(shop.versions)
    assert len({answer.attribution_token for answer in answers}) == 3


def test_similar_products_are_the_nearest_by_cosine(client: Client, shop: Shop) -> None:
    from model.artifact import load_artifact

    answer = client.similar_products("product-11", k=5)
    artifact = load_artifact(shop.home / "artifacts" / answer.model_version)
    matrix, blocks = artifact.scorer.matrix.numpy().astype(np.float64), artifact.scorer.blocks
    index = artifact.products.index("product-11")
    cosine = np.zeros(len(matrix))
    for name in ("graph", "text"):
        block = matrix[:, blocks[name]]
        norms = np.linalg.norm(block, axis=1)
        cosine += block @ block[index] / (norms * norms[index]) / 2
    cosine[index] = -np.inf
    assert ids(answer.results) == artifact.products.ids(np.argsort(-cosine)[:5])
