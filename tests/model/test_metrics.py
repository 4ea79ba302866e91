"""Metrics: pinned by hand, checked against ranx, and what must hold for any list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from model.metrics import PADDING, PER_USER, bootstrap, coverage, hits, intra_list_diversity, novelty, per_user

# One user: right are 2, 5, 7. The list hits at ranks 2 and 4.
RANKED = np.array([[1, 5, 3, 2, 4]])
TRUTH_OFFSETS = np.array([0, 3])
TRUTH = np.array([2, 5, 7], np.int32)


def test_known_answers_by_hand() -> None:
    values = {name: value[0] for name, value in per_user(RANKED, TRUTH_OFFSETS, TRUTH, (5,)).items()}
    dcg = 1 / np.log2(3) + 1 / np.log2(5)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert values == pytest.approx(
        {
            "recall@5": 2 / 3,
            "recall_capped@5": 2 / 3,
            "precision@5": 2 / 5,
            "f1@5": 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5),
            "hr@5": 1.0,
            "ndcg@5": dcg / ideal,
            "mrr@5": 1 / 2,
            "map@5": (1 / 2 + 2 / 4) / 3,
        }
    )


def test_the_ideal_of_ndcg_has_all_right_products_not_only_those_found() -> None:
    # The trap of published code: one hit at rank 1 of three right products is not a perfect list.
    ranked = np.array([[2, 0, 1]])
    assert per_user(ranked, TRUTH_OFFSETS, TRUTH, (3,))["ndcg@3"][0] == pytest.approx(1 / (1 + 1 / np.log2(3) + 0.5))


def test_recall_capped_is_one_when_every_place_is_right() -> None:
    values = per_user(np.array([[5, 7]]), TRUTH_OFFSETS, TRUTH, (2,))
    assert values["recall@2"][0] == pytest.approx(2 / 3)
    assert values["recall_capped@2"][0] == 1


def test_padding_is_a_miss() -> None:
    assert hits(np.array([[7, PADDING]]), TRUTH_OFFSETS, TRUTH).tolist() == [[True, False]]


def lists() -> st.SearchStrategy[tuple[np.ndarray, list[list[int]]]]:
    """Ranked lists of 20 out of 30 products and, for each, up to 25 right ones."""
    ranked = st.permutations(range(30)).map(lambda order: order[:20])
    truth = st.lists(st.integers(0, 29), min_size=1, max_size=25, unique=True).map(sorted)
    return st.lists(st.tuples(ranked, truth), min_size=1, max_size=6).map(
        lambda users: (np.array([user[0] for user in users]), [user[1] for user in users])
    )


def compressed(truth: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in truth])])
    return offsets, np.array([product for user in truth for product in user], np.int32)


@given(lists())
def test_metrics_stay_in_the_unit_interval_and_grow_with_k(users: tuple[np.ndarray, list[list[int]]]) -> None:
    ranked, truth = users
    values = per_user(ranked, *compressed(truth))
    for name, value in values.items():
        assert ((value >= 0) & (value <= 1 + 1e-12)).all(), name
    for name in ("recall", "hr", "mrr", "map"):
        assert (values[f"{name}@5"] <= values[f"{name}@10"] + 1e-12).all()
        assert (values[f"{name}@10"] <= values[f"{name}@20"] + 1e-12).all()


@given(lists())
def test_moving_a_hit_up_never_hurts(users: tuple[np.ndarray, list[list[int]]]) -> None:
    ranked, truth = users
    offsets, products = compressed(truth)
    right = hits(ranked, offsets, products)
    best = np.stack([np.concatenate([row[hit], row[~hit]]) for row, hit in zip(ranked, right, strict=True)])
    before, after = per_user(ranked, offsets, products), per_user(best, offsets, products)
    for name, value in before.items():
        assert (after[name] >= value - 1e-12).all(), name


@pytest.mark.filterwarnings("ignore")  # ranx compiles with numba, whose warnings are not ours
def test_metrics_agree_with_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    # Compiling takes a minute, interpreting these few lists a moment.
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    from ranx import Qrels, Run, evaluate

    generator = np.random.default_rng(7)
    ranked = np.stack([generator.permutation(60)[:20] for _ in range(200)])
    truth = [sorted(generator.choice(60, generator.integers(1, 30), replace=False).tolist()) for _ in range(200)]
    qrels = Qrels({f"u{row}": {f"p{product}": 1 for product in user} for row, user in enumerate(truth)})
    run = Run(
        {
            f"u{row}": {f"p{product}": 20.0 - place for place, product in enumerate(user)}
            for row, user in enumerate(ranked)
        }
    )
    ours = per_user(ranked, *compressed(truth))
    theirs = {
        "recall": "recall",
        "precision": "precision",
        "f1": "f1",
        "hr": "hit_rate",
        "ndcg": "ndcg",
        "mrr": "mrr",
        "map": "map",
    }
    names = [f"{name}@{k}" for name in theirs for k in (5, 10, 20)]
    peer = evaluate(qrels, run, [f"{theirs[name.split('@')[0]]}@{name.split('@')[1]}" for name in names])
    for name in names:
        metric, k = name.split("@")
        assert ours[name].mean() == pytest.approx(peer[f"{theirs[metric]}@{k}"]), name
    assert set(PER_USER) - set(theirs) == {"recall_capped"}


def test_coverage_counts_products_shown_to_anybody() -> None:
    ranked = np.array([[0, 1], [1, PADDING]])
    assert coverage(ranked, np.array([True, True, True, True, False]), 2) == 2 / 4


def test_novelty_is_the_mean_self_information() -> None:
    ranked = np.array([[0, 1], [2, PADDING]])
    assert novelty(ranked, np.array([8, 2, 0]), 8, 2).tolist() == [(0 + 2) / 2, 3]


def test_diversity_is_one_minus_the_mean_cosine_of_pairs() -> None:
    root = np.sqrt(0.5)
    features = sparse.csr_matrix(np.array([[1, 0], [1, 0], [0, 1], [root, root], [0, 0]]))
    ranked = np.array([[0, 1, 2], [0, 3, PADDING], [0, PADDING, PADDING], [0, 4, PADDING]])
    expected = [1 - 1 / 3, 1 - root, 0, 1]
    assert intra_list_diversity(ranked, features, 3) == pytest.approx(expected)


def test_bootstrap_covers_the_mean_and_is_seeded() -> None:
    values = np.random.default_rng(1).random((400, 2))
    one = bootstrap(values, np.random.default_rng(3), resamples=500)
    assert one == bootstrap(values, np.random.default_rng(3), resamples=500)
    for column, estimate in enumerate(one):
        deviation = values[:, column].std() / np.sqrt(400)
        assert estimate.mean == pytest.approx(values[:, column].mean())
        assert estimate.low == pytest.approx(estimate.mean - 1.96 * deviation, abs=0.3 * deviation)
        assert estimate.high == pytest.approx(estimate.mean + 1.96 * deviation, abs=0.3 * deviation)


@settings(max_examples=20)
@given(st.floats(-5, 5), st.integers(1, 20))
def test_a_constant_has_no_interval(value: float, size: int) -> None:
    (estimate,) = bootstrap(np.full((size, 1), value), np.random.default_rng(0), resamples=20)
    assert estimate.low == pytest.approx(value)
    assert estimate.high == pytest.approx(value)
