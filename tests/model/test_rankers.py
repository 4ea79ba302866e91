"""The contract of every ranker: one suite, run for each baseline, for our network, and for whatever joins `RANKERS`."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from kg.snapshot import Histories
from model.baselines import BASELINES, FitData
from model.baselines.space import draw
from model.checkpoint import EpochRecord
from model.ranker import Ranker, top_k
from tests.model.rankers import (
    BOARD,
    NOT_PERSONAL,
    NOW,
    OWN_ONLY,
    PRODUCTS,
    RANKERS,
    checkerboard,
    random_data,
    random_histories,
    skewed_data,
    small_config,
)
from tests.model.test_splits import histories_of

every_ranker = pytest.mark.parametrize("name", list(RANKERS))
every_baseline = pytest.mark.parametrize("name", list(BASELINES))


@cache
def fitted(name: str) -> tuple[Ranker, FitData]:
    """Return a ranker fitted on random data; nobody may change it."""
    data = random_data()
    return RANKERS[name](data), data


def with_values(data: FitData) -> FitData:
    """Return the data with one to five stars for each interaction."""
    stars = np.random.default_rng(5).integers(1, 6, len(data.known.product_index)).astype(np.float32)
    known = replace(data.known, value=stars)
    return replace(
        data,
        known=known,
        snapshot=replace(data.snapshot, histories=known),
        validation=replace(data.validation, known=known),
    )


def answer(ranker: Ranker, histories: Histories) -> np.ndarray:
    return ranker.scores(histories, np.full(len(histories), NOW))


@every_ranker
def test_scores_are_finite_numbers_for_every_product(name: str) -> None:
    ranker, data = fitted(name)
    scores = answer(ranker, data.known)
    assert ranker.name == name
    assert scores.shape == (len(data.known), PRODUCTS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@every_ranker
def test_a_batch_equals_single_calls(name: str) -> None:
    ranker, data = fitted(name)
    together = answer(ranker, data.known)
    for user in range(len(data.known)):
        alone = answer(ranker, data.known.take(np.array([user])))
        np.testing.assert_allclose(alone[0], together[user], rtol=1e-4, atol=1e-5)


@every_ranker
def test_nobody_to_score_is_no_error(name: str) -> None:
    assert answer(fitted(name)[0], histories_of([])).shape == (0, PRODUCTS)


@every_ranker
@pytest.mark.parametrize("history", [[], [3], [39, 39, 39], list(range(PRODUCTS)) * 3])
def test_any_history_gets_a_whole_list(name: str, history: list[int]) -> None:
    products, _ = top_k(answer(fitted(name)[0], histories_of([history])), PRODUCTS)
    assert sorted(products[0].tolist()) == list(range(PRODUCTS))


@every_ranker
def test_without_a_history_the_popular_comes_first(name: str) -> None:
    ranker, data = fitted(name)
    counts = np.bincount(data.known.product_index, minlength=PRODUCTS)
    scores = answer(ranker, histories_of([[]]))[0]
    assert np.corrcoef(scores, counts)[0, 1] > 0.5


@every_baseline
def test_who_has_no_history_gets_what_is_popular(name: str) -> None:
    data = skewed_data()
    counts = np.bincount(data.known.product_index, minlength=PRODUCTS)
    scores = answer(RANKERS[name](data), histories_of([[], [1, 2], []]))
    popular = np.argsort(-counts, kind="stable")
    for row in (0, 2):
        assert np.argsort(-scores[row], kind="stable").tolist() == popular.tolist()


@every_ranker
def test_the_result_is_the_callers_to_change(name: str) -> None:
    ranker, data = fitted(name)
    first = answer(ranker, data.known)
    kept = first.copy()
    first[:] = np.nan
    np.testing.assert_array_equal(answer(ranker, data.known), kept)


@every_ranker
def test_fitting_and_scoring_leave_what_they_read_as_it_was(name: str) -> None:
    data = random_data(4)
    text = data.text()
    for array in (
        *vars(data.known).values(),
        text,
        *(end for edges in data.facts.values() for end in vars(edges).values()),
    ):
        array.setflags(write=False)  # as in a memory-mapped snapshot
    before = [array.copy() for array in vars(data.known).values()]
    answer(RANKERS[name](data), data.known)
    for array, was in zip(vars(data.known).values(), before, strict=True):
        np.testing.assert_array_equal(array, was)


@every_ranker
def test_the_same_seed_gives_the_same_scores_whatever_the_values(name: str) -> None:
    ranker, data = fitted(name)
    rated = with_values(random_data())
    again = RANKERS[name](rated)
    np.testing.assert_array_equal(answer(again, rated.known), answer(ranker, data.known))


@every_ranker
def test_only_what_is_known_is_learned_from(name: str) -> None:
    ranker, data = fitted(name)
    future = replace(data.snapshot, histories=histories_of([[0, 1, 2, 3]] * len(data.known)))
    of_future = RANKERS[name](replace(random_data(), snapshot=future))
    np.testing.assert_array_equal(answer(of_future, data.known), answer(ranker, data.known))


@every_ranker
def test_excluded_relations_are_not_seen(name: str) -> None:
    data = random_data()
    without = {relation: edges for relation, edges in data.snapshot.facts.items() if relation != "ALSO_BOUGHT"}
    excluded = RANKERS[name](replace(random_data(), exclude_relations=("ALSO_BOUGHT",)))
    absent = RANKERS[name](replace(random_data(), snapshot=replace(data.snapshot, facts=without)))
    np.testing.assert_array_equal(answer(excluded, data.known), answer(absent, data.known))


@pytest.mark.parametrize("name", [name for name in RANKERS if name not in NOT_PERSONAL + OWN_ONLY])
def test_the_checkerboard_is_solved(name: str) -> None:
    # Each user had all products of one colour but one: the missing one comes first.
    data = checkerboard()
    products, _ = top_k(answer(RANKERS[name](data), data.known), 1, seen=data.known)
    assert products[:, 0].tolist() == list(range(BOARD))


def test_every_tuned_baseline_has_as_many_configurations() -> None:
    tuned = {name: len(baseline.grid) for name, baseline in BASELINES.items() if len(baseline.grid) > 1}
    assert set(tuned.values()) == {6}, tuned


@every_baseline
def test_the_space_stays_within_the_configuration(name: str) -> None:
    baseline = BASELINES[name]
    drawn = draw(baseline.grid[0], baseline.space, 20, seed=5)
    assert drawn[0] == baseline.grid[0]
    assert len(set(drawn)) == len(drawn) == 20
    assert drawn == draw(baseline.grid[0], baseline.space, 20, seed=5)
    assert set(baseline.space) <= set(type(baseline.grid[0]).model_fields)


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline.by_epochs])
def test_what_is_fitted_anew_takes_as_many_epochs_as_were_best_and_looks_at_no_validation(name: str) -> None:
    heard: list[EpochRecord] = []
    data = replace(random_data(), on_epoch=lambda config, record: heard.append(record))
    stopped, anew = BASELINES[name].fit_stopped(data, small_config(name))
    measured = [record.ndcg for record in heard]
    assert anew.epochs == 1 + measured.index(max(measured)) < len(measured)
    again = BASELINES[name].fit_anew(data, anew)
    np.testing.assert_array_equal(answer(again, data.known), answer(stopped, data.known))
    more = BASELINES[name].fit_anew(data.at(random_histories(9)), anew)
    assert not np.array_equal(answer(more, data.known), answer(stopped, data.known))
    assert len(heard) == len(measured)
