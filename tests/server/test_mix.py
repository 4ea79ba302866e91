from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgrank.client import Client
from kgrank.errors import InvalidRequestError
from kgrank.v1.common_pb2 import Context, Filter, Mix, ScoreComponents
from server import question
from server.listing import Listing
from server.mix import Pool, arrange
from tests.server.shop import Shop


def sum_of(parts: ScoreComponents) -> float:
    return sum(getattr(parts, field.name) for field in parts.DESCRIPTOR.fields)


def ids(results: "object") -> list[str]:
    return [result.product_id for result in results]  # type: ignore[attr-defined]


def pool_of(count: int, seed: int = 0, fresh: float = 0.3, inside: int = 60) -> Pool:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Pool(
        np.sort(generator.normal(size=count).astype(np.float32))[::-1].copy(),
        generator.integers(-1, 4, count).astype(np.int32),
        generator.integers(-1, 3, count).astype(np.int32),
        generator.random(count) < fresh,
        np.arange(count) < inside,
        vectors[:inside],
        np.ones(count, np.bool_),
    )


@pytest.mark.parametrize(("count", "position"), [(1, 2), (5, 8), (5, 5)])
def test_a_list_too_short_for_a_pin_ends_with_it(count: int, position: int) -> None:
    made = arrange(pool_of(count), 10, question.Mix(), [(position, 0)])
    assert made.place.tolist() == [*range(1, count), 0]


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(0, 60),
    k=st.integers(1, 30),
    diversity=st.floats(0, 1),
    share=st.floats(0, 1),
    per_brand=st.none() | st.integers(1, 4),
    per_category=st.none() | st.integers(1, 4),
    pins=st.dictionaries(st.integers(1, 20), st.integers(0, 59), max_size=3),
    inside=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_whatever_the_mix_the_list_is_sorted_by_what_its_components_add_up_to(
    count: int,
    k: int,
    diversity: float,
    share: float,
    per_brand: int | None,
    per_category: int | None,
    pins: dict[int, int],
    inside: int,
    seed: int,
) -> None:
    pool = pool_of(count, seed, inside=inside)
    rows = {position: row for position, row in pins.items() if row < count}
    pinned = [(position, row) for position, row in rows.items() if list(rows.values()).count(row) == 1]
    made = arrange(pool, k, question.Mix(diversity, per_brand, per_category, share), pinned)
    assert len(set(made.place.tolist())) == len(made.place) <= min(k, count)
    score = pool.score[made.place] + made.diversity + made.exploration + made.rule
    assert np.isfinite(score).all()
    # Float32: what the dial at its end takes away is hundreds of times a score.
    scale = 1e-5 * max(1.0, float(np.abs([score, made.diversity]).max(initial=0)))
    assert (np.diff(score) <= scale).all()
    held = [row for position, row in pinned if position <= k]
    for numbers, most in ((pool.brand, per_brand), (pool.category, per_category)):
        counted, by_rules = Counter(numbers[made.place].tolist()), Counter(numbers[held].tolist())
        assert most is None or all(n <= max(most, by_rules[number]) for number, n in counted.items() if number >= 0)
    if per_brand is None and per_category is None:
        assert len(made.place) == min(k, count)
        for position, row in pinned:
            if position <= len(made.place):
                assert made.place[position - 1] == row


def test_diversity_takes_the_known_order_of_maximal_marginal_relevance() -> None:
    # Two alike, and one across from them with a lower score.
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    nothing = np.full(3, -1, np.int32)
    all_of_them = np.ones(3, np.bool_)
    pool = Pool(
        np.array([1.0, 0.9, 0.0], np.float32), nothing, nothing, ~all_of_them, all_of_them, vectors, all_of_them
    )
    assert arrange(pool, 3, question.Mix()).place.tolist() == [0, 1, 2]
    # At .5: .9 - 1 * 1 * 1 for the second, which is less than 0.
    made = arrange(pool, 3, question.Mix(diversity=0.5))
    assert made.place.tolist() == [0, 2, 1]
    assert made.diversity.tolist() == pytest.approx([0, 0, -1])


def test_what_diversity_does_not_look_at_comes_after_what_it_does() -> None:
    pool = replace(pool_of(50, inside=20), brand=np.arange(50, dtype=np.int32) % 8)
    made = arrange(pool, 30, question.Mix(diversity=0.9, max_per_brand=3))
    assert len(made.place) == 24
    inside = made.place < 20
    assert inside[: inside.sum()].all()
    assert 0 < inside.sum() < 24
    np.testing.assert_array_equal(np.sort(made.place[~inside]), made.place[~inside])


def test_a_pin_counts_in_a_cap_and_others_give_way() -> None:
    pool = replace(pool_of(20), brand=np.zeros(20, np.int32))
    made = arrange(pool, 6, question.Mix(max_per_brand=2), [(2, 9), (5, 7)])
    assert made.place.tolist() == [9, 7]
    made = arrange(pool, 6, question.Mix(max_per_brand=3), [(2, 9), (5, 7)])
    assert made.place.tolist() == [0, 9, 7]


def test_caps_that_let_few_through_end_the_search_for_more(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    depths: list[int] = []
    listed = Listing.listed

    def counted(self: Listing, ranking: question.Ranking, *arguments: Any) -> question.Ranking:
        depths.append(len(ranking.product_index))
        return listed(self, ranking, *arguments)

    monkeypatch.setattr(Listing, "listed", counted)
    answer = client.recommend("user-03", k=8, exclude_seen=False, mix=Mix(max_per_brand=1, diversity=0.3))
    assert len({int(result.product_id[8:]) % 3 for result in answer.results}) == len(answer.results) == 3
    assert depths == [52]


def test_a_list_grows_more_diverse_as_the_dial_turns(client: Client) -> None:
    lists = [client.recommend("user-03", k=10, exclude_seen=False, mix=Mix(diversity=d)) for d in (0, 0.5, 1)]
    plain = client.recommend("user-03", k=10, exclude_seen=False)
    assert ids(lists[0].results) == ids(plain.results)
    brands = [len({int(result.product_id[8:]) % 3 for result in each.results}) for each in lists]
    assert brands[0] <= brands[1] <= brands[2] == 3
    for answer in lists:
        for result in answer.results:
            assert sum_of(result.components) == pytest.approx(result.score, rel=1e-4, abs=1e-3)
        scores = [result.score for result in answer.results]
        assert scores == sorted(scores, reverse=True)
    assert any(result.components.diversity < 0 for result in lists[1].results)


def test_caps_hold_and_the_best_of_each_brand_come(client: Client) -> None:
    everything = client.recommend("user-00", k=90, exclude_seen=False).results
    capped = client.recommend("user-00", k=9, exclude_seen=False, mix=Mix(max_per_brand=3)).results
    by_brand: Counter[int] = Counter()
    expected = []
    for product_id in ids(everything):
        brand = int(product_id[8:]) % 3
        by_brand[brand] += 1
        if by_brand[brand] <= 3:
            expected.append(product_id)
    assert ids(capped) == expected
    # No more than three of each of three brands are there, however many are asked for.
    assert len(client.recommend("user-00", k=30, mix=Mix(max_per_brand=3)).results) == 9
    kinds = Counter(
        int(each[8:]) % 7 for each in ids(client.recommend("user-00", k=14, mix=Mix(max_per_category=2)).results)
    )
    assert kinds == dict.fromkeys(range(7), 2)


def test_a_share_of_the_list_is_for_products_that_few_users_had(client: Client, shop: Shop) -> None:
    histories = shop.snapshot.histories
    pairs = {(user, int(p)) for user in range(len(histories)) for p in histories.product_index[histories.rows(user)]}
    users_had = Counter(product for _, product in pairs)
    lifted = 0
    for user in range(12):
        answer = client.recommend(f"user-{user:02}", k=10, exclude_seen=False, mix=Mix(exploration_share=0.6)).results
        fresh = [result for result in answer if users_had[int(result.product_id[8:])] < 5]
        assert len(fresh) >= 6
        assert all(result.components.exploration == 0 for result in answer if result not in fresh)
        lifted += sum(result.components.exploration > 0 for result in answer)
        for result in answer:
            assert sum_of(result.components) == pytest.approx(result.score, abs=1e-3)
    assert lifted


def test_similar_products_and_searches_are_mixed_too(client: Client) -> None:
    similar = client.similar_products("product-11", k=6, mix=Mix(max_per_brand=2)).results
    assert Counter(int(each[8:]) % 3 for each in ids(similar)) == {0: 2, 1: 2, 2: 2}
    found = client.search("thing", k=6, mix=Mix(max_per_category=1), filter=Filter(brands=["Acme"])).results
    assert len({int(each[8:]) % 7 for each in ids(found)}) == 6
    assert all(int(each[8:]) % 3 == 0 for each in ids(found))


def test_a_mix_out_of_range_is_refused(client: Client) -> None:
    mix = Mix(diversity=1.5, max_per_brand=0, max_per_category=-1, exploration_share=float("nan"))
    with pytest.raises(InvalidRequestError) as refused:
        client.recommend(mix=mix)
    assert {violation.field for violation in refused.value.violations} == {
        f"mix.{field}" for field in ("diversity", "max_per_brand", "max_per_category", "exploration_share")
    }


def test_a_seed_is_found_by_a_search_and_not_recommended(client: Client) -> None:
    context = Context(seed_product_ids=["product-41"])
    assert ids(client.search("Thing 41", context=context).results)[0] == "product-41"
    assert "product-41" not in ids(client.recommend("stranger", k=90, context=context).results)
    assert "product-41" not in ids(client.recommend("stranger", k=90, context=context, exclude_seen=False).results)
