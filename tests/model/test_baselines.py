"""Each baseline by itself: known answers by hand, the figures of outside libraries, and the equations another way."""

import warnings

import networkx as nx
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from kg.errors import MissingExtraError
from kg.snapshot import Edges
from model.baselines import (
    Baseline,
    ease,
    frequency,
    graph_only,
    ials,
    itemknn,
    itemknn_facts,
    lightgcn,
    popularity,
    sasrec,
    tifuknn,
)
from model.baselines.known_users import UNKNOWN, KnownUsers
from model.baselines.likeness import linked_products
from model.baselines.sasrec_training import sampled_softmax
from model.baselines.space import Choice, Real, Whole
from model.baselines.taken import incidence
from model.errors import ModelError
from model.ranker import top_k
from model.splits import DAY_MS
from tests.model.plain_data import plain_data
from tests.model.rankers import NOW, PRODUCTS, random_data, random_histories
from tests.model.test_splits import histories_of, sequences


def test_popularity_counts_and_forgets() -> None:
    known = histories_of([[0, 0, 0, 1], [1, 2, 2, 2]])
    assert popularity.popularity(known, 3, None).tolist() == [3, 2, 3]
    # The last interaction is on day 3; an interaction on day d counts 0.5^(3 - d).
    recent = popularity.popularity(known, 3, half_life_days=1)
    assert recent.tolist() == [0.125 + 0.25 + 0.5, 1 + 0.125, 0.25 + 0.5 + 1]
    assert popularity.popularity(known, 3, None, window_days=1).tolist() == [0, 1, 1]


def test_frequency_puts_the_own_products_first_then_the_popular() -> None:
    known = histories_of([[0, 0, 1], [2, 2, 2, 3]])
    ranker = frequency.fit(plain_data(known, 5), frequency.FrequencyConfig())
    products, _ = top_k(ranker.scores(known, np.full(2, NOW)), 4)
    assert products.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]


def test_frequency_forgets() -> None:
    known = histories_of([[0, 0, 1]])
    ranker = frequency.fit(plain_data(known, 2), frequency.FrequencyConfig(half_life_days=0.5))
    products, _ = top_k(ranker.scores(known, np.array([2 * DAY_MS])), 2)
    assert products.tolist() == [[1, 0]]


def test_tifuknn_weighs_baskets_within_groups_and_groups() -> None:
    # Baskets {0}, {1}, {2} in groups of two, counted from the end: {0} | {1}, {2}.
    config = tifuknn.TifuKnnConfig(group_size=2, within_decay=0.5, group_decay=0.1, neighbours=1, own=1)
    vector = tifuknn.user_vectors(histories_of([[0, 1, 2]]), 4, config).toarray()[0]
    assert vector == pytest.approx([0.1 * 1 / 2, 0.5 / 2 / 2, 1 / 2 / 2, 0])


def test_tifuknn_adds_what_the_nearest_buys() -> None:
    known = histories_of([[0, 1], [0, 1, 2], [3, 4]])
    config = tifuknn.TifuKnnConfig(group_size=1, group_decay=1, neighbours=1, own=0.5)
    scores = tifuknn.fit(plain_data(known, 5), config).scores(histories_of([[0, 1]]), np.array([NOW]))
    assert scores[0] == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2, 1 / 3 / 2, 0, 0])


def test_itemknn_scores_as_implicits_cosine_does() -> None:
    from implicit.nearest_neighbours import CosineRecommender
    from implicit.utils import ParameterWarning

    known = histories_of([sorted(set(products)) for products in sequences(random_histories(8)) if products])
    had = incidence(known, PRODUCTS)
    outside = CosineRecommender(K=PRODUCTS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # it warns of the format of its own matrix
        outside.fit(had, show_progress=False)
    ours = itemknn.fit(plain_data(known, PRODUCTS), itemknn.ItemKnnConfig()).scores(known, np.full(len(known), NOW))
    products, scores = outside.recommend(np.arange(len(known)), had, N=PRODUCTS, filter_already_liked_items=False)
    found = scores > 0  # what has no likeness at all is left out by implicit, and comes as 0 or less
    np.testing.assert_allclose(np.take_along_axis(ours, products, axis=1)[found], scores[found], rtol=1e-4)
    assert found.sum() == (ours > 0).sum()


def test_itemknn_with_facts_adds_its_parts() -> None:
    known = histories_of([[0, 1]])
    facts = {"HAS_BRAND": Edges(np.array([0, 2], np.int32), np.array([4, 4], np.int32))}
    facts["ALSO_BOUGHT"] = Edges(np.array([0, 3], np.int32), np.array([3, 0], np.int32))
    text = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    data = plain_data(known, 4, facts=facts, text=text)
    config = itemknn_facts.ItemKnnFactsConfig(position_decay=1, text=0.5, kinds=0.25, facts=0.1, centred=False)
    scores = itemknn_facts.fit(data, config).scores(histories_of([[0]]), np.array([NOW]))
    shared = (np.log(4 / 2) / np.log(4)) ** 2  # a brand with two of four products
    assert scores[0] == pytest.approx([1 + 0.5 + 0.25 * shared, 1, 0.5 * 0.6 + 0.25 * shared, -0.5 + 0.1 * 2])


def test_facts_between_products_count_both_ways() -> None:
    facts = {"A": Edges(np.array([0, 1, 0], np.int32), np.array([1, 0, 7], np.int32))}
    assert linked_products(facts, 3).toarray().tolist() == [[0, 2, 0], [2, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_ease_solves_every_products_regression_on_the_others(penalty: float) -> None:
    had = incidence(random_histories(3), PRODUCTS)
    weights = ease.item_weights(had, penalty)
    dense = had.toarray().astype(np.float64)
    for product in range(PRODUCTS):
        others = np.delete(dense, product, axis=1)
        ridge = np.linalg.solve(others.T @ others + penalty * np.eye(PRODUCTS - 1), others.T @ dense[:, product])
        np.testing.assert_allclose(np.delete(weights[:, product], product), ridge, atol=1e-4)
        assert weights[product, product] == 0


def test_mirroring_in_blocks_gives_a_symmetric_matrix() -> None:
    lower = np.tril(np.random.default_rng(0).random((7, 7)).astype(np.float32))
    mirrored = lower.copy()
    ease._mirror_lower(mirrored, block=3)
    np.testing.assert_array_equal(mirrored, lower + np.tril(lower, -1).T)


def test_ease_refuses_a_matrix_above_its_limit_and_leaves_rare_products_out() -> None:
    data = random_data()
    with pytest.raises(ModelError, match=r"of 40 x 40 products .*max_products is 30"):
        ease.fit(data, ease.EaseConfig(max_products=30))
    rare = np.asarray(incidence(data.known, PRODUCTS).sum(axis=0)).ravel() < 8
    asked = histories_of([[int(np.flatnonzero(~rare)[0])]])
    scores = ease.fit(data, ease.EaseConfig(min_users=8)).scores(asked, np.array([NOW]))[0]
    assert (scores[rare] == 0).all()
    assert (scores[~rare] != 0).sum() > 1


def test_ials_scores_are_those_of_implicit() -> None:
    data = random_data()
    ranker = ials.train(data, ials.IalsConfig(factors=8, iterations=3))
    scores = ranker.scores(data.known, np.full(len(data.known), NOW))
    had = incidence(data.known, PRODUCTS)
    asked = np.flatnonzero(np.diff(data.known.offsets) > 0)
    products, best = ranker.model.recommend(
        asked, had[asked], N=10, filter_already_liked_items=False, recalculate_user=True
    )
    np.testing.assert_allclose(np.take_along_axis(scores[asked], products, axis=1), best, rtol=1e-4, atol=1e-5)


def test_ials_solves_for_users_with_one_thread_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data()
    ranker = ials.train(data, ials.IalsConfig(factors=8, iterations=3))
    solve = ranker.model.recalculate_user
    threads: list[int] = []

    def watched(users: np.ndarray, had: object) -> np.ndarray:
        threads.extend(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
        solved: np.ndarray = solve(users, had)
        return solved

    monkeypatch.setattr(ranker.model, "recalculate_user", watched)
    with threadpool_limits(2, "blas"):
        ranker.scores(data.known, np.full(len(data.known), NOW))
    assert set(threads) == {1}


def test_lightgcn_gives_users_it_was_fitted_on_the_networks_own_vectors() -> None:
    from model.baselines.lightgcn_training import LightGCN, network_of, normalised, ranker_of

    data = random_data()
    had = incidence(data.known, PRODUCTS)
    torch.manual_seed(1)
    outside = LightGCN(sum(had.shape), 8, 3)
    edges = torch.from_numpy(np.stack(had.nonzero()).astype(np.int64))
    edges[1] += had.shape[0]
    learned = outside.get_embedding(torch.cat([edges, edges.flip(0)], dim=1))
    learned.square().mul(torch.arange(learned.numel()).reshape(learned.shape)).mean().backward()
    vectors = learned.detach().numpy()
    network = network_of(sum(had.shape), lightgcn.LightGcnConfig(dimension=8, layers=3))
    network.load_state_dict(outside.state_dict())
    same = network.get_embedding(normalised(had))
    same.square().mul(torch.arange(same.numel()).reshape(same.shape)).mean().backward()
    torch.testing.assert_close(network.embedding.weight.grad, outside.embedding.weight.grad, atol=1e-6, rtol=1e-4)
    ranker = ranker_of(network, normalised(had), had, KnownUsers(data.known))
    scores = ranker.scores(data.known, np.full(len(data.known), NOW))
    asked = np.diff(data.known.offsets) > 0
    users, products = vectors[: had.shape[0]], vectors[had.shape[0] :]
    np.testing.assert_allclose(scores[asked], (users @ products.T)[asked], atol=1e-6)


def test_lightgcn_learns_from_no_pair_that_is_wrong_for_the_user() -> None:
    from model.baselines.lightgcn_training import not_had

    had = incidence(histories_of([[0, 1, 2], [3], [0, 1, 2, 3]]), 4)
    users = np.repeat([0, 1], 500)
    drawn = not_had(had, users, np.random.default_rng(0))
    assert (drawn[:500] == 3).all()
    assert np.bincount(drawn[500:], minlength=4)[:3].min() > 100
    assert (drawn[500:] != 3).all()
    assert len(not_had(had, np.array([2]), np.random.default_rng(0))) == 1  # had all there is


def test_a_user_is_known_by_the_longest_beginning_of_the_history() -> None:
    known = KnownUsers(histories_of([[1], [1, 2, 3], [], [4, 5]]))
    asked = histories_of([[1, 2, 3, 9], [1, 9], [4], [4, 5], [], [7]])
    assert known.find(asked).tolist() == [1, 0, UNKNOWN, 3, UNKNOWN, UNKNOWN]


def test_graph_only_walks_as_personalised_pagerank_does() -> None:
    head, tail = np.array([0, 1, 1, 2, 3], np.int32), np.array([5, 5, 6, 6, 6], np.int32)
    config = graph_only.GraphOnlyConfig(steps=50, damping=0.8, degree_power=0, position_decay=1)
    data = plain_data(histories_of([[0]]), 5, facts={"HAS_BRAND": Edges(head, tail)})
    scores = graph_only.fit(data, config).scores(histories_of([[0]]), np.array([NOW]))
    graph = nx.Graph(zip(head.tolist(), tail.tolist(), strict=True))
    outside = nx.pagerank(graph, alpha=0.8, personalization={0: 1}, tol=1e-10)
    assert scores[0] == pytest.approx([outside.get(product, 0) for product in range(5)], abs=1e-4)


def test_graph_only_walks_through_users_when_told_to() -> None:
    data = plain_data(histories_of([[0, 1], [2]]), 3)
    asked = (histories_of([[0]]), np.array([NOW]))
    alone = graph_only.fit(data, graph_only.GraphOnlyConfig(degree_power=0)).scores(*asked)
    assert (alone[0, 1:] <= alone[0, 0] / 2).all()  # nowhere; others are as popular as they are
    through = graph_only.fit(data, graph_only.GraphOnlyConfig(degree_power=0, interactions=True)).scores(*asked)
    assert (through[0] > 0).tolist() == [True, True, False]


def test_sasrec_never_looks_ahead_or_at_padding() -> None:
    torch.manual_seed(0)
    for gated in (False, True):
        network = sasrec.SasRec(sasrec.SasRecConfig(dimension=16, blocks=2, heads=2, gated=gated), 10).eval()
        products, lengths = sasrec.padded(histories_of([[1, 2, 3], [4, 5, 6, 7, 8]]), 50, 10)
        states = network(products, lengths)
        products[0, 3:] = 9  # padding
        torch.testing.assert_close(network(products, lengths)[0, :3], states[0, :3])
        products[1, 4] = 0
        torch.testing.assert_close(network(products, lengths)[1, :4], states[1, :4])


def test_sampled_softmax_over_everything_is_cross_entropy() -> None:
    torch.manual_seed(0)
    network = sasrec.SasRec(sasrec.SasRecConfig(dimension=16, dropout=0), 10)
    products, lengths = sasrec.padded(histories_of([[1, 2, 3], [4, 5, 6, 7]]), 51, 10)
    loss = sampled_softmax(network, products, lengths, torch.arange(10))
    states = network(products[:, :-1], lengths - 1)
    logits = states @ network.product.weight[:10].T
    right = torch.tensor([2, 3, 5, 6, 7])
    asked = torch.cat([logits[0, :2], logits[1, :3]])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(asked, right))


def test_a_missing_package_is_named_with_its_extra() -> None:
    baseline = Baseline(popularity.fit, popularity.GRID, needs=("no_such_package",))
    with pytest.raises(MissingExtraError, match="baseline x needs the package no_such_package"):
        baseline.check_needs("x")


def test_axes_cover_their_range() -> None:
    assert Real(1, 100, log=True).at(0.5) == pytest.approx(10)
    assert Real(2, 4).at(0.25) == 2.5
    assert [Whole(1, 3).at(place) for place in (0, 0.34, 0.99)] == [1, 2, 3]
    assert [Choice(("a", "b")).at(place) for place in (0, 0.5, 0.99)] == ["a", "b", "b"]


def test_what_fits_share_is_computed_once_and_only_the_last_is_kept() -> None:
    data = random_data()
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    keys = (1, 1, 2, 1)
    assert [data.memo("thing", key, lambda key=key: make(key)) for key in keys] == [1, 1, 2, 1]
    assert made == [1, 2, 1]
    assert data.at(random_histories(5)).memo("thing", 1, lambda: 7) == 7
