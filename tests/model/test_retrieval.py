from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.snapshot import Histories
from model import retrieval
from model.retrieval import EXACT_BELOW, FEWEST_USERS, ProductIndex
from model.scan import best_of
from model.scoring import UserVectors


@dataclass(frozen=True)
class Products:
    """A model that is only its products."""

    matrix: torch.Tensor
    blocks: Mapping[str, slice] = field(default_factory=dict)

    def encode_users(
        self, histories: Histories, now_ms: np.ndarray, candidates: np.ndarray | None = None
    ) -> UserVectors:
        raise NotImplementedError


def index_of(matrix: np.ndarray, sample: UserVectors) -> ProductIndex:
    return ProductIndex.build(Products(torch.from_numpy(matrix)), sample)


def users(count: int, dimensions: int, products: int, seed: int, *, repeated: int = 5) -> UserVectors:
    generator = np.random.default_rng(seed)
    index = [np.sort(generator.choice(products, min(repeated, products), replace=False)) for _ in range(count)]
    vectors = torch.from_numpy(generator.normal(size=(count, dimensions)).astype(np.float32))
    offsets = np.cumsum([0, *(len(each) for each in index)]).astype(np.int64)
    gains = generator.normal(0, 2, sum(map(len, index))).astype(np.float32)
    return UserVectors(vectors, offsets, np.concatenate(index).astype(np.int32), gains, gains)


def oracle(matrix: np.ndarray, batch: UserVectors, excluded: list[np.ndarray]) -> np.ndarray:
    """Every score `[B, P]` in float64, -inf where excluded."""
    scores = batch.vectors.numpy().astype(np.float64) @ matrix.T.astype(np.float64)
    for row in range(len(batch)):
        index, score, _ = batch.added(row)
        scores[row, index] += score
        scores[row, excluded[row]] = -np.inf
    return scores


def products(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, dimensions)) * np.linspace(1, 0.1, dimensions)
    return made.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 400),
    dimensions=st.integers(1, 40),
    k=st.integers(1, 60),
    batch=st.integers(1, 9),
    left_out=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_small_catalogues_are_ranked_as_the_oracle_does(
    count: int, dimensions: int, k: int, batch: int, left_out: int, seed: int
) -> None:
    matrix = products(count, dimensions, seed)
    index = index_of(matrix, users(64, dimensions, count, seed + 1))
    asked = users(batch, dimensions, count, seed + 2)
    generator = np.random.default_rng(seed)
    excluded = [generator.choice(count, min(left_out, count), replace=False) for _ in range(batch)]
    found = index.search(asked, excluded, k)
    scores = oracle(matrix, asked, excluded)
    best = -np.sort(-scores, axis=1)[:, :k]
    existing = np.isfinite(found.score)
    assert existing.sum(1).tolist() == np.isfinite(best).sum(1).tolist()
    for row in range(batch):
        real = existing[row]
        assert found.score[row, real] == pytest.approx(scores[row, found.product_index[row, real]], abs=1e-3)
        # The scan is coarse: nearly all of the best are found, and never one that was left out.
        missed = ~np.isin(found.product_index[row, real], np.argsort(-scores[row])[:k])
        assert missed.sum() <= 0.2 * k
        assert not np.isin(found.product_index[row, real], excluded[row]).any()


@pytest.mark.parametrize("repeated", [5, 400], ids=["a few are lifted", "many are lifted"])
def test_a_large_wide_catalogue_is_searched_in_few_dimensions_with_little_lost(repeated: int) -> None:
    matrix = products(20_000, 160)
    index = index_of(matrix, users(256, 160, 20_000, 1, repeated=repeated))
    asked = users(100, 160, 20_000, 2, repeated=repeated)
    nobody = [np.empty(0, np.int64)] * 100
    truth = np.argsort(-oracle(matrix, asked, nobody), axis=1)[:, :10]
    found = index.search(asked, nobody, 10).product_index
    assert (truth[:, :, None] == found[:, None, :]).any(2).mean() >= 0.99


@pytest.mark.parametrize("sample", [1, 2, FEWEST_USERS - 1])
def test_a_large_catalogue_that_few_users_know_is_searched_exactly(sample: int) -> None:
    matrix = products(EXACT_BELOW, 32)
    index = index_of(matrix, users(sample, 32, EXACT_BELOW, 1))
    asked = users(20, 32, EXACT_BELOW, 2)
    nobody = [np.empty(0, np.int64)] * 20
    best = np.argsort(-oracle(matrix, asked, nobody), axis=1)[:, :10]
    assert index.search(asked, nobody, 10).product_index.tolist() == best.tolist()


def test_a_batch_gives_each_user_what_a_search_alone_gives() -> None:
    matrix = products(3000, 24)
    index = index_of(matrix, users(128, 24, 3000, 1))
    asked = users(7, 24, 3000, 2, repeated=0)
    together = index.search(asked, [np.empty(0, np.int64)] * 7, 10)
    for row in range(7):
        single = UserVectors(
            asked.vectors[row : row + 1],
            np.zeros(2, np.int64),
            asked.added_product_index,
            asked.added_score,
            asked.added_history,
        )
        alone = index.search(single, [np.empty(0, np.int64)], 10)
        assert alone.product_index[0].tolist() == together.product_index[row].tolist()


def test_what_is_left_out_is_put_in_order_once_however_deep_a_search_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, asked = products(EXACT_BELOW + 500, 8), users(3, 8, EXACT_BELOW + 500, seed=4)
    index = index_of(matrix, asked)
    calls = dict.fromkeys(("nearest", "_sparse_part"), 0)

    def counted(of: object, name: str) -> None:
        plain = getattr(of, name)

        def call(*given: Any) -> Any:
            calls[name] += 1
            return plain(*given)

        monkeypatch.setattr(of, name, call)

    counted(index, "nearest")
    counted(retrieval, "_sparse_part")
    # The first has had nearly all that is near, each many times over; the second nothing; the third some of it.
    near = np.argsort(-(asked.vectors.numpy() @ matrix.T), axis=1)
    excluded = [np.tile(near[0, :5000], 20), np.empty(0, np.int64), near[2, :200]]
    found = index.search(asked, excluded, 10)
    assert calls["nearest"] > 2
    assert calls["_sparse_part"] == 1
    truth = np.argsort(-oracle(matrix, asked, excluded), axis=1)[:, :10]
    assert found.product_index.tolist() == truth.tolist()
    assert (
        index.search(asked, [np.unique(each) for each in excluded], 10).product_index.tolist()
        == found.product_index.tolist()
    )


def test_a_strong_repeat_brings_a_product_to_the_top() -> None:
    matrix = products(5000, 16)
    index = index_of(matrix, users(64, 16, 5000, 1))
    vector = torch.ones(1, 16)
    gain = np.array([1000.0], np.float32)
    repeated = UserVectors(vector, np.array([0, 1]), np.array([4321], np.int32), gain, gain)
    assert index.search(repeated, [np.empty(0, np.int64)], 3).product_index[0, 0] == 4321


@settings(max_examples=6, deadline=None)
@given(
    changed=st.integers(0, 120),
    new=st.integers(0, 120),
    steps=st.integers(1, 3),
    k=st.sampled_from([1, 10, 100]),
    seed=st.integers(0, 1000),
)
def test_products_that_come_or_change_are_found_without_a_new_scan(
    changed: int, new: int, steps: int, k: int, seed: int
) -> None:
    index, matrix = scanned()
    generator = np.random.default_rng(seed)
    fresh = np.empty(0, np.int64)
    for step in range(steps):
        come = products(new, matrix.shape[1], 1_000 + seed + step)  # none is a copy of one that was there
        other = generator.choice(len(matrix), changed, replace=False)
        matrix = np.concatenate([matrix, come])
        matrix[other] = 3 * products(changed, matrix.shape[1], 3_000 + seed + step)
        other = np.union1d(other, np.arange(len(matrix) - new, len(matrix)))
        fresh, index = np.union1d(fresh, other), index.with_products(matrix, other)
    asked = users(32, matrix.shape[1], len(matrix), seed)
    excluded = [generator.choice(len(matrix), 20, replace=False) for _ in range(len(asked))]
    found = index.search(asked, excluded, k).product_index
    truth = np.argsort(-oracle(matrix, asked, excluded), axis=1)[:, :k]
    for row in range(len(asked)):
        assert len(set(found[row].tolist())) == k
        if index._scan is scanned()[0]._scan:  # what stands beside the scan is never missed
            assert np.isin(np.intersect1d(truth[row], fresh), found[row]).all()
    hits = sum(int(np.isin(right, there).sum()) for right, there in zip(truth, found, strict=True))
    assert k == 1 or 10 * hits >= 9 * truth.size


@cache
def scanned() -> tuple[ProductIndex, np.ndarray]:
    """Return an index with a coarse scan, and its products."""
    matrix = products(EXACT_BELOW, 48)
    return index_of(matrix, users(256, 48, EXACT_BELOW, 1)), matrix


def test_a_scan_is_made_anew_once_much_has_changed() -> None:
    index, matrix = scanned()
    much = np.arange(len(matrix) // 10)
    assert index.with_products(matrix, much[:5])._scan is index._scan
    assert index.with_products(matrix, much)._scan is not index._scan


@pytest.mark.parametrize(
    ("count", "copies"), [(500, 60), (EXACT_BELOW - 1, 4_000), (EXACT_BELOW, 60), (EXACT_BELOW, 600)]
)
@pytest.mark.parametrize("batch", [1, 8, 40])
def test_of_equal_scores_the_first_products_are_found_in_their_order(count: int, copies: int, batch: int) -> None:
    matrix = products(count, 24)
    alike = np.sort(np.random.default_rng(5).choice(count, copies, replace=False))
    matrix[alike] = 3 * matrix[alike[0]]
    matrix[:, -1] = 1  # as a popularity that all have
    asked = users(batch, 24, count, 2, repeated=0)
    near, far, none = matrix[alike[0]], -matrix[alike[0]], np.eye(24, dtype=np.float32)[-1]
    asked.vectors[0] = torch.from_numpy(near)
    index = index_of(matrix, users(256, 24, count, 1, repeated=0))
    nobody = [np.empty(0, np.int64)] * batch
    for k in (1, 10, 55):
        found = index.search(asked, nobody, k)
        assert found.product_index[0].tolist() == alike[:k].tolist()
        assert np.ptp(found.score[0]) == 0
    left_out = [alike[:7], *nobody[1:]]
    assert index.search(asked, left_out, 10).product_index[0].tolist() == alike[7:17].tolist()
    asked.vectors[0] = torch.from_numpy(far)
    assert np.isin(alike, index.search(asked, nobody, 10).product_index[0]).sum() == 0
    if count < EXACT_BELOW:
        asked.vectors[0] = torch.from_numpy(none)
        assert index.search(asked, nobody, 10).product_index[0].tolist() == list(range(10))


@pytest.mark.parametrize("lifted", [0, 19, 39])
def test_a_lifted_product_beyond_the_nearest_that_ties_with_the_last_stands_before_it(lifted: int) -> None:
    matrix = np.ones((100, 1), np.float32)
    matrix[40:71] = 2  # all but one of the 32 nearest; the first 40 tie for the last of them
    index, gain = index_of(matrix, users(64, 1, 100, 1)), np.ones(1, np.float32)
    user = UserVectors(torch.ones(1, 1), np.array([0, 1]), np.array([lifted], np.int32), gain, gain)
    assert index.search(user, [], 1).product_index.tolist() == [[lifted]]


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-40, -1e-40, 3e38, -3e38, np.inf, -np.inf]), max_size=12))
def test_the_best_are_those_of_a_stable_sort(drawn: list[float]) -> None:
    score = np.array([drawn], np.float32)
    product_index = np.random.default_rng(len(drawn)).permutation(len(drawn))[None] + (1 << 31)
    order = np.lexsort((product_index[0], -score[0]))
    for k in (1, len(drawn)):
        best, scores = best_of(product_index, score, k)
        assert best[0].tolist() == product_index[0, order][:k].tolist()
        assert scores[0].tolist() == score[0, order][:k].tolist()


def test_a_user_of_whom_nothing_is_known_gets_products_that_are_there_or_none() -> None:
    index, _ = scanned()
    nobody = users(3, index.matrix.shape[1], len(index), 5, repeated=0)
    nobody.vectors[1] = 0
    found = index.search(nobody, [], 10)
    listed = np.isfinite(found.score)
    assert listed[[0, 2]].all()
    assert ((found.product_index >= 0) & (found.product_index < len(index))).all()
    assert not found.score[1][listed[1]].any()
