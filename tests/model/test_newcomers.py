"""Products without a past: what they are given, to whom, until when, and how much of it is enough."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kg.snapshot import Snapshot
from model.artifact import MANIFEST, TENSORS, load_artifact, save_artifact
from model.blend import NEWCOMER_GRID, fit_newcomer
from model.case import Case
from model.newcomers import blend_with_newcomers
from model.pipeline import fit_model
from model.ranker import ModelRanker
from model.refresh import refresh
from model.scorer import TrainedModel
from model.scoring import GRAPH, NEWCOMER, TEXT
from model.splits import Split, SplitConfig, make_split
from model.train import Trained
from tests.model.small_shop import HALF, MODEL, TRAIN, small_shop

EXTRA = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return small_shop(extra_products=EXTRA)


@pytest.fixture(scope="module")
def split(snapshot: Snapshot) -> Split:
    return make_split(snapshot, SplitConfig())


@pytest.fixture(scope="module")
def trained(snapshot: Snapshot, split: Split, cache: Path) -> Trained:
    return fit_model(snapshot, split, MODEL, TRAIN, cache)


def test_newcomers_are_given_the_same_by_everyone_of_whom_something_is_known(trained: Trained, split: Split) -> None:
    test = split.test
    users = test.histories.where(test.histories.users_of_rows() > 0)  # the first one has no history any more
    without, given = (
        ModelRanker("m", trained.model.with_blend(replace(trained.model.blend, newcomer=newcomer))).scores(
            users, test.now_ms
        )
        for newcomer in (0.0, 2.0)
    )
    expected = np.zeros_like(without)
    expected[1:, 2 * HALF :] = 2
    np.testing.assert_allclose(given - without, expected, atol=1e-5)


def too_low(model: TrainedModel, case: Case) -> TrainedModel:
    """Return the model with every other product as one that training has not met, and ranked far too low."""
    newcomer = np.arange(len(model.matrix)) % 2 == 0
    graph, text = (model.matrix[:, model.blocks[name]].clone() for name in (GRAPH, TEXT))
    graph[torch.from_numpy(newcomer)] *= 0.6
    statistics = replace(model.statistics, newcomer=newcomer)
    return TrainedModel(model.networks, graph, text, statistics, replace(model.blend, newcomer=0.0))


def test_they_are_given_the_least_that_brings_them_to_a_share_of_the_others(trained: Trained, split: Split) -> None:
    model = too_low(trained.model, split.validation)
    # Which share takes how much depends on a small model's rounding, and so on the processor.
    blends = [fit_newcomer([(model, split.validation)], share) for share in np.linspace(0, 1, 21)]
    assert all(each == replace(model.blend, newcomer=each.newcomer) for each in blends)  # nothing else moves
    given = [each.newcomer for each in blends]
    assert given == sorted(given)
    assert set(given) <= set(NEWCOMER_GRID)
    # From 5 on they would be further, at a price that others would pay.
    assert given[0] == 0 < given[-1] < 5


def test_nothing_is_given_where_nobody_asks_for_newcomers(trained: Trained, split: Split) -> None:
    assert fit_newcomer([(trained.model, split.validation)], 0.5).newcomer == 0  # no one has had the extra teas


def test_what_is_chosen_is_chosen_on_products_hidden_from_the_finished_model(
    trained: Trained, snapshot: Snapshot, split: Split, cache: Path
) -> None:
    chosen = blend_with_newcomers(trained, snapshot, split.train, split.validation, cache, TRAIN.newcomer_share)
    assert chosen == trained.model.blend  # as `fit_model` has done it, by the same draw
    assert replace(chosen, newcomer=0.0) == blend_with_newcomers(
        trained, snapshot, split.train, split.validation, cache, 0.0
    )


def test_a_product_stays_a_newcomer_until_a_model_is_trained_on_it(
    trained: Trained, snapshot: Snapshot, split: Split, cache: Path, tmp_path: Path
) -> None:
    artifact = load_artifact(save_artifact(tmp_path, snapshot, split, trained, TRAIN))
    assert artifact.scorer.blend == trained.model.blend
    np.testing.assert_array_equal(artifact.scorer.statistics.newcomer, trained.model.statistics.newcomer)
    bought = snapshot.histories.product_index.copy()
    bought[:4] = 2 * HALF  # the first of the extra teas has its first buyers
    later = replace(snapshot, histories=replace(snapshot.histories, product_index=bought))
    refreshed = refresh(artifact, later, cache)
    assert refreshed.statistics.popularity[2 * HALF] > 0
    np.testing.assert_array_equal(np.flatnonzero(refreshed.statistics.newcomer), np.arange(2 * HALF, 2 * HALF + EXTRA))
    column = refreshed.matrix[:, refreshed.blocks[NEWCOMER]]
    np.testing.assert_array_equal(np.flatnonzero(column), np.arange(2 * HALF, 2 * HALF + EXTRA))


def test_an_artifact_from_before_newcomers_scores_as_it_did(
    trained: Trained, snapshot: Snapshot, split: Split, tmp_path: Path
) -> None:
    model = trained.model.with_blend(replace(trained.model.blend, newcomer=0.0))
    folder = save_artifact(tmp_path, snapshot, split, replace(trained, model=model), TRAIN)
    tensors = load_file(folder / TENSORS)
    save_file({**tensors, "matrix": tensors["matrix"][:, :-1].contiguous()}, folder / TENSORS)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["blend"]["newcomer"], manifest["digests"][TENSORS]
    (folder / MANIFEST).write_text(json.dumps({**manifest, "schema_version": 2}))
    old = load_artifact(folder).scorer
    assert not old.statistics.newcomer.any()
    test = split.test
    graph, text = (model.matrix[:, model.blocks[name]] for name in (GRAPH, TEXT))
    unlent = TrainedModel(model.networks, graph, text, model.statistics, model.blend, model.neighbours)
    np.testing.assert_array_equal(
        ModelRanker("old", old).scores(test.histories, test.now_ms),
        ModelRanker("new", unlent).scores(test.histories, test.now_ms),
    )
