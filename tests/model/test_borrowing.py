"""What newcomers borrow: of whom, how much, and for whom not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from kg.snapshot import Histories, Snapshot
from model import borrowing
from model.artifact import MANIFEST, TENSORS, load_artifact, save_artifact
from model.errors import ArtifactError
from model.pipeline import fit_model
from model.scorer import TrainedModel
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, NEWCOMER, POPULARITY, TEXT, components
from model.splits import Split, SplitConfig, make_split
from model.train import Trained
from tests.model.small_shop import HALF, MODEL, TRAIN, small_shop

EXTRA = 3
NEW = 2 * HALF + np.arange(EXTRA)
OLD = np.arange(2 * HALF)
SETTINGS = MODEL.model_copy(update={"neighbours": MODEL.neighbours.model_copy(update={"kind": "cosine"})})


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return small_shop(extra_products=EXTRA)


@pytest.fixture(scope="module")
def split(snapshot: Snapshot) -> Split:
    return make_split(snapshot, SplitConfig())


@pytest.fixture(scope="module")
def trained(snapshot: Snapshot, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    fitted = fit_model(snapshot, split, SETTINGS, TRAIN, tmp_path_factory.mktemp("text"))
    blend = replace(fitted.model.blend, neighbours=2.0, popularity=0.5)
    return replace(fitted, model=fitted.model.with_blend(blend))


@pytest.fixture(scope="module")
def model(trained: Trained) -> TrainedModel:
    return trained.model


def parts(model: TrainedModel, split: Split) -> dict[str, npt.NDArray[np.float32]]:
    """Return the components of all scores `[B, P]` of the validation users."""
    case, everything = split.validation, np.arange(len(model.matrix))
    users = model.encode_users(case.histories, case.now_ms)
    of_each = [components(model, users, row, everything) for row in range(len(users))]
    return {name: np.stack([each[name] for each in of_each]) for name in of_each[0]}


def weights(model: TrainedModel, asked: npt.NDArray[np.int64], lenders: int) -> npt.NDArray[np.float64]:
    """Return how much of each known product each newcomer is lent `[N, P]`, by the definition."""
    graph, text = (model.matrix[:, model.blocks[name]].double() for name in (GRAPH, TEXT))
    alike = (graph[asked] @ graph.T + text[asked] @ text.T).numpy() / 2
    alike[:, model.statistics.newcomer] = -np.inf
    alike[alike < np.sort(alike, axis=1)[:, -lenders, None]] = -np.inf
    lent = np.exp((alike - alike.max(axis=1, keepdims=True)) / 0.05)
    return np.asarray(lent / lent.sum(axis=1, keepdims=True))


def test_a_newcomer_has_the_popularity_and_the_neighbours_of_its_like(model: TrainedModel, split: Split) -> None:
    found, lent = parts(model, split), weights(model, NEW, 10)
    own = model.statistics.popularity
    assert not own[NEW].any()
    assert lent[:, :HALF].sum() < 1e-3  # drills: a new tea is like teas
    np.testing.assert_allclose(
        found[POPULARITY][:, NEW] / 0.5, np.tile(lent @ own, (len(split.validation), 1)), rtol=1e-4
    )
    np.testing.assert_allclose(
        found[POPULARITY][:, OLD] / 0.5, np.tile(own[OLD], (len(split.validation), 1)), rtol=1e-6
    )
    near = np.where(np.isin(np.arange(len(own)), NEW), 0, found[NEIGHBOURS])
    np.testing.assert_allclose(found[NEIGHBOURS][:, NEW], near @ lent.T, rtol=1e-4, atol=1e-6)
    assert (found[NEIGHBOURS][:, NEW].max(axis=1) > 0).any()


def test_what_people_had_is_ranked_as_it_was(model: TrainedModel, split: Split) -> None:
    found, alone = parts(model, split), parts(unlent(model), split)
    for name, part in found.items():
        np.testing.assert_array_equal(part[:, OLD], alone[name][:, OLD])
    for name in (GRAPH, TEXT, HISTORY, NEWCOMER):
        np.testing.assert_array_equal(found[name], alone[name])


def unlent(model: TrainedModel) -> TrainedModel:
    """Return the same model, of which nobody has borrowed."""
    graph, text = (model.matrix[:, model.blocks[name]] for name in (GRAPH, TEXT))
    return TrainedModel(model.networks, graph, text, model.statistics, model.blend, model.neighbours)


def test_nothing_is_borrowed_for_what_the_user_has_had(model: TrainedModel, split: Split) -> None:
    case = split.validation
    before = case.histories.take(np.flatnonzero(np.diff(case.histories.offsets) > 0)[:1])
    had = Histories(
        np.array([0, len(before.product_index) + 1]),
        np.append(before.product_index, np.int32(NEW[0])),
        np.append(before.type, before.type[-1]),
        np.append(before.at_ms, before.at_ms[-1]),
        np.append(before.value, before.value[-1]),
    )
    users = model.encode_users(had, case.now_ms[:1])
    neighbours = components(model, users, 0, NEW)[NEIGHBOURS]
    assert neighbours[0] == 0
    assert (neighbours[1:] > 0).any()


def test_a_newcomer_with_a_past_of_its_own_keeps_what_is_more(model: TrainedModel) -> None:
    popularity = model.statistics.popularity.copy()
    popularity[NEW[:2]] = [9, 0.001]
    graph, text = (model.matrix[:, model.blocks[name]] for name in (GRAPH, TEXT))
    statistics = replace(model.statistics, popularity=popularity)
    known = TrainedModel(model.networks, graph, text, statistics, model.blend, model.neighbours).with_loans()
    column = known.matrix[:, known.blocks[POPULARITY]][:, 0].numpy()
    assert column[NEW[0]] == 9
    assert column[NEW[1]] > 0.001


def test_only_the_most_popular_lend_where_there_are_many(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowing, "_MOST_LENDING", 4)
    few = unlent(model).with_loans()
    own = model.statistics.popularity
    lending = np.argsort(-own, kind="stable")[:4]
    borrowed = few.matrix[:, few.blocks[POPULARITY]][NEW, 0].numpy()
    assert (borrowed >= own[lending].min()).all()
    assert (borrowed <= own[lending].max()).all()


def test_products_that_join_borrow_as_if_all_were_asked_at_once(model: TrainedModel, split: Split) -> None:
    count = len(model.matrix)
    matrix = torch.cat([model.matrix, model.matrix[[0, HALF]]])  # one more drill, one more tea
    matrix[count:, model.blocks[NEWCOMER]] = 1
    matrix[count:, model.blocks[POPULARITY]] = 0
    before = model.matrix.clone()
    more = model.over(matrix, np.array([count, count + 1]))
    torch.testing.assert_close(model.matrix, before, rtol=0, atol=0)
    at_once, found = parts(unlent(more).with_loans(), split), parts(more, split)
    for name, part in found.items():
        np.testing.assert_allclose(part, at_once[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (found[POPULARITY][:, count:] > 0).all()


def test_a_product_that_is_gone_again_when_it_joins_disturbs_no_one(model: TrainedModel, split: Split) -> None:
    more = model.over(torch.cat([model.matrix, model.matrix[:1]]), np.empty(0, np.int64))
    for name, part in parts(more, split).items():
        np.testing.assert_allclose(part[:, : len(model.matrix)], parts(model, split)[name], rtol=1e-6)


def test_where_nothing_is_known_nothing_is_lent(model: TrainedModel, split: Split) -> None:
    statistics = replace(model.statistics, newcomer=np.ones(len(model.matrix), np.bool_))
    graph, text = (model.matrix[:, model.blocks[name]] for name in (GRAPH, TEXT))
    new = TrainedModel(model.networks, graph, text, statistics, model.blend, model.neighbours)
    for name, part in parts(new.with_loans(), split).items():
        np.testing.assert_array_equal(part, parts(new, split)[name])


def test_of_many_newcomers_those_that_borrow_most_are_kept(
    model: TrainedModel, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parts(model, split)[NEIGHBOURS][:, NEW]
    monkeypatch.setattr(borrowing, "_MOST_BORROWED", 1)
    kept = parts(model, split)[NEIGHBOURS][:, NEW]
    np.testing.assert_array_equal(np.count_nonzero(kept, axis=1), np.minimum(np.count_nonzero(whole, axis=1), 1))
    np.testing.assert_allclose(kept.max(axis=1), whole.max(axis=1), rtol=1e-6)


@pytest.fixture(scope="module")
def loaded(trained: Trained, snapshot: Snapshot, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artifact(tmp_path_factory.mktemp("artifacts"), snapshot, split, trained, TRAIN)


def test_an_artifact_lends_as_the_model_did(trained: Trained, split: Split, loaded: Path) -> None:
    scorer, expected = load_artifact(loaded).scorer, parts(trained.model, split)
    np.testing.assert_array_equal(scorer.statistics.popularity, trained.model.statistics.popularity)
    for name, part in parts(scorer, split).items():
        np.testing.assert_array_equal(part, expected[name], err_msg=name)


def test_a_newcomer_that_becomes_like_others_borrows_of_those(loaded: Path) -> None:
    scorer = load_artifact(loaded).scorer
    matrix = scorer.matrix.clone()
    for block in (GRAPH, TEXT):
        matrix[NEW[0], scorer.blocks[block]] = matrix[0, scorer.blocks[block]]  # a drill
    changed = scorer.over(matrix, NEW[:1])
    own, column = changed.statistics.popularity, changed.matrix[:, changed.blocks[POPULARITY]][:, 0].numpy()
    lent = weights(changed, NEW[:1], 10)
    assert lent[:, HALF : 2 * HALF].sum() < 1e-3
    np.testing.assert_allclose(column[NEW[0]], (lent @ own)[0], rtol=1e-4)


def test_an_artifact_from_before_lending_lends_nothing(trained: Trained, split: Split, loaded: Path) -> None:
    manifest = json.loads((loaded / MANIFEST).read_text())
    (loaded / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 3}))
    scorer = load_artifact(loaded).scorer
    (loaded / MANIFEST).write_text(json.dumps(manifest))
    assert not scorer.lends
    expected = parts(unlent(trained.model), split)
    for name, part in parts(scorer, split).items():
        np.testing.assert_array_equal(part, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("newcomer", torch.zeros(EXTRA, dtype=torch.int64)), ("lender", torch.full((EXTRA, 10), 99, dtype=torch.int32))],
)
def test_loans_that_do_not_fit_are_refused(loaded: Path, tmp_path: Path, name: str, wrong: torch.Tensor) -> None:
    folder = tmp_path / loaded.name
    shutil.copytree(loaded, folder)
    save_file({**load_file(folder / TENSORS), f"loans.{name}": wrong}, folder / TENSORS)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digests"][TENSORS]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="does not fit together: loans are"):
        load_artifact(folder)
