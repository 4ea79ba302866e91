import hashlib
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
from kg.tables import CODES
from model.artifact import MANIFEST, TENSORS, load_artifact, read_manifest, save_artifact
from model.batches import batches
from model.checkpoint import EpochRecord
from model.config import ModelConfig, NeighbourConfig, TrainConfig
from model.errors import ArtifactError, ModelError
from model.neighbours import fit_neighbours
from model.product_graph import ProductGraph, product_graph
from model.refresh import refresh
from model.scoring import components, full_scores
from model.splits import Split, SplitConfig, make_split
from model.text import encode_cached
from model.train import Trained, train
from tests.model.small_shop import DAY_MS, HALF, MODEL, TRAIN, small_shop

Prepared = tuple[Snapshot, Split, ProductGraph, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache: Path) -> Prepared:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    graph = product_graph(snapshot, split.train, MODEL)
    return snapshot, split, graph, encode_cached(graph.texts, MODEL.text, cache)


def run(prepared: Prepared, model: ModelConfig = MODEL, config: TrainConfig = TRAIN, **options: object) -> Trained:
    snapshot, split, graph, text = prepared
    return train(snapshot, split, text, graph, model, config, **options)  # type: ignore[arg-type]  # as given


@pytest.fixture(scope="module")
def trained(prepared: Prepared) -> Trained:
    return run(prepared)


@pytest.fixture(scope="module")
def artifact_folder(prepared: Prepared, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artifact(tmp_path_factory.mktemp("artifacts"), prepared[0], prepared[1], trained, TRAIN)


def test_two_tastes_are_told_apart(prepared: Prepared, trained: Trained) -> None:
    test = prepared[1].test
    scores = full_scores(trained.model, trained.model.encode_users(test.histories, test.now_ms))
    likes_drills = np.array([user % 2 for user in test.user_index], np.bool_)
    is_drill = np.array([product.startswith("drill") for product in prepared[0].products.array.to_pylist()])
    best = scores.argsort(dim=1, descending=True)[:, :HALF].numpy()
    assert (is_drill[best] == likes_drills[:, None]).mean() > 0.95


def test_components_sum_up_to_the_score(prepared: Prepared) -> None:
    config = TRAIN.model_copy(update={"epochs": 1, "objective": "next_basket"})
    model = run(prepared, MODEL.model_copy(update={"repeat": True}), config).model
    neighbours = fit_neighbours(prepared[0], prepared[1].train, NeighbourConfig(kind="cosine"), ())
    model = model.with_neighbours(neighbours).with_blend(replace(model.blend, neighbours=2.0))
    test = prepared[1].test
    users = model.encode_users(test.histories, test.now_ms)
    everything = np.arange(len(model.matrix))
    for row in (0, 7):
        parts = components(model, users, row, everything)
        assert set(parts) == {"graph", "text", "history", "popularity", "neighbours", "newcomer"}
        assert parts["neighbours"].any()
        assert parts["history"].any()
        np.testing.assert_allclose(sum(parts.values()), full_scores(model, users)[row].numpy(), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_scores_as_in_a_larger_batch(prepared: Prepared, trained: Trained) -> None:
    test = prepared[1].test
    together = full_scores(trained.model, trained.model.encode_users(test.histories, test.now_ms))
    alone = test.take(np.array([5]))
    single = full_scores(trained.model, trained.model.encode_users(alone.histories, alone.now_ms))
    torch.testing.assert_close(single[0], together[5])


def test_a_cold_user_gets_finite_scores(trained: Trained) -> None:
    nobody = Histories(np.zeros(2, np.int64), *(np.empty(0, kind) for kind in ("i4", "i1", "i8", "f4")))
    users = trained.model.encode_users(nobody, np.zeros(1, np.int64))
    assert torch.isfinite(full_scores(trained.model, users)).all()
    assert not users.vectors[0, trained.model.blocks["graph"]].any()
    best = int(full_scores(trained.model, users)[0].argmax())
    assert best == int(trained.model.statistics.popularity.argmax())


def test_repeats_need_the_objective_that_learns_them(prepared: Prepared) -> None:
    with pytest.raises(ModelError, match="next_basket only"):
        run(prepared, MODEL.model_copy(update={"repeat": True}))


def test_the_same_seed_gives_the_same_artifact(
    prepared: Prepared, trained: Trained, artifact_folder: Path, tmp_path: Path
) -> None:
    again = save_artifact(tmp_path, prepared[0], prepared[1], run(prepared), TRAIN)
    assert read_manifest(again).digests == read_manifest(artifact_folder).digests
    other = run(prepared, config=TRAIN.model_copy(update={"seed": 4}))
    assert not torch.equal(other.model.matrix, trained.model.matrix)


def test_a_killed_run_resumes_to_the_same_result(prepared: Prepared, trained: Trained, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill_after_two(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run(prepared, checkpoint_folder=tmp_path, on_epoch=kill_after_two)
    epochs: list[int] = []
    resumed = run(
        prepared, checkpoint_folder=tmp_path, resume=True, on_epoch=lambda record: epochs.append(record.epoch)
    )
    assert epochs == [3, 4, 5, 6]
    assert torch.equal(resumed.model.matrix, trained.model.matrix)
    assert resumed.model.blend == trained.model.blend


def test_a_checkpoint_of_other_settings_is_not_resumed_from(prepared: Prepared, tmp_path: Path) -> None:
    once = TRAIN.model_copy(update={"epochs": 1})
    run(prepared, config=once, checkpoint_folder=tmp_path)
    epochs: list[int] = []
    other = once.model_copy(update={"seed": 9})
    run(prepared, config=other, checkpoint_folder=tmp_path, resume=True, on_epoch=lambda r: epochs.append(r.epoch))
    assert epochs == [1]


def test_a_checkpoint_of_other_texts_is_not_resumed_from(prepared: Prepared, tmp_path: Path) -> None:
    snapshot, split, graph, text = prepared
    once = TRAIN.model_copy(update={"epochs": 1})
    run(prepared, config=once, checkpoint_folder=tmp_path)
    epochs: list[int] = []
    other = (snapshot, split, graph, text[::-1].copy())  # what an encoder's folder gives after its files were replaced
    run(other, config=once, checkpoint_folder=tmp_path, resume=True, on_epoch=lambda r: epochs.append(r.epoch))
    assert epochs == [1]


def test_a_damaged_checkpoint_is_one_clear_error(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelError, match="is damaged"):
        run(prepared, checkpoint_folder=tmp_path, resume=True)


def test_what_a_run_that_was_killed_while_it_wrote_left_is_removed(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / ".tmp1234").write_bytes(b"half a file")
    run(prepared, config=TRAIN.model_copy(update={"epochs": 1}), checkpoint_folder=tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint.safetensors"]


def test_a_history_within_one_window_is_told_from_one_that_is_too_short(prepared: Prepared) -> None:
    config = TRAIN.model_copy(update={"objective": "next_basket", "window_days": 3650.0})
    with pytest.raises(ModelError, match="before and within a window of 3650 days") as refused:
        run(prepared, config=config)
    assert "train.window_days" in str(refused.value)


def test_early_stopping_keeps_the_best_epoch(prepared: Prepared) -> None:
    result = run(prepared, config=TRAIN.model_copy(update={"epochs": 30, "patience": 1}))
    values = [record.ndcg for record in result.records]
    assert result.best_epoch == int(np.argmax(values)) + 1
    assert len(values) == result.best_epoch + 1


def test_an_artifact_comes_back_as_it_was(prepared: Prepared, trained: Trained, artifact_folder: Path) -> None:
    artifact = load_artifact(artifact_folder)
    assert artifact.products.array.to_pylist() == prepared[0].products.array.to_pylist()
    assert artifact.manifest.snapshot_hash == prepared[0].content_hash
    assert artifact.manifest.split["protocol"] == "leave-one-out"
    assert set(artifact.relation_weights) >= {"BOUGHT_TOGETHER", "HAS_BRAND", "NEXT"}
    test = prepared[1].test
    before, after = (model.encode_users(test.histories, test.now_ms) for model in (trained.model, artifact.scorer))
    torch.testing.assert_close(after.vectors, before.vectors, rtol=0, atol=0)
    assert torch.equal(artifact.scorer.matrix, trained.model.matrix)


@pytest.mark.parametrize(
    ("file", "edit", "problem"),
    [
        ("tensors.safetensors", lambda old: old[:-1] + b"\x01", "is damaged"),
        ("ids.arrow", None, "is missing"),
        (
            "manifest.json",
            lambda old: old.replace(b'"schema_version": 4', b'"schema_version": 99'),
            "schema version 99",
        ),
        ("manifest.json", lambda old: old[:40], "is damaged"),
        ("manifest.json", lambda old: old.replace(b'"dimension": 16', b'"dimension": 32'), "does not fit together"),
        ("manifest.json", None, "is not an artifact"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(
    artifact_folder: Path, tmp_path: Path, file: str, edit: object, problem: str
) -> None:
    folder = shutil.copytree(artifact_folder, tmp_path / "copy")
    if callable(edit):
        (folder / file).write_bytes(edit((folder / file).read_bytes()))
    else:
        (folder / file).unlink()
    with pytest.raises(ArtifactError, match=problem):
        load_artifact(folder)


def test_an_artifact_of_before_an_interaction_type_joined_ranks_the_same(
    prepared: Prepared, artifact_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact_folder, tmp_path / "copy")
    tensors = load_file(folder / TENSORS)
    for name in ("network.0.history.type_bias", "network.0.history.type_embedding"):
        assert len(tensors[name]) == len(CODES)
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / TENSORS)
    digest = hashlib.blake2b((folder / TENSORS).read_bytes(), digest_size=16).hexdigest()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["digests"][TENSORS] = digest
    (folder / MANIFEST).write_text(json.dumps(manifest))
    test = prepared[1].test
    assert (test.histories.type < len(CODES) - 1).all()
    now, before = (load_artifact(each).scorer for each in (artifact_folder, folder))
    users = [model.encode_users(test.histories, test.now_ms).vectors for model in (now, before)]
    torch.testing.assert_close(users[1], users[0], rtol=0, atol=0)
    last = replace(test.histories, type=np.full_like(test.histories.type, len(CODES) - 1))
    assert before.encode_users(last, test.now_ms).vectors.isfinite().all()


def test_products_that_joined_after_training_are_ranked_by_text_and_facts(artifact_folder: Path, cache: Path) -> None:
    later = small_shop(extra_products=2)
    model = refresh(load_artifact(artifact_folder), later, cache)
    assert len(model.matrix) == len(later.products)
    users = model.encode_users(later.histories, np.full(len(later.users), later.as_of_ms))
    graph = model.blocks["graph"]
    scores = users.vectors[:, graph] @ model.matrix[:, graph].T  # popularity and history have nothing to say of them
    new = [later.products.index(f"tea-new-{row}") for row in range(2)]
    drills = [later.products.index(f"drill-{row:02}") for row in range(HALF)]
    tea_drinkers = np.arange(len(later.users)) % 2 == 0
    assert (scores[tea_drinkers][:, new].mean(1) > scores[tea_drinkers][:, drills].mean(1)).all()


def test_next_item_asks_for_what_follows(prepared: Prepared) -> None:
    train_part = prepared[1].train
    (batch,) = batches(train_part, 20, MODEL, TRAIN.model_copy(update={"batch_users": 64}), np.random.default_rng(0))
    places = batch.question_step.numpy()
    rows, steps = np.divmod(places, batch.events.product.shape[1])
    follows = {
        (int(products[at]), int(products[at + 1]))
        for user in range(len(train_part))
        for products in [train_part.product_index[train_part.rows(user)]]
        for at in range(len(products) - 1)
    }
    asked = set(zip(batch.events.product[rows, steps].tolist(), batch.target_product.tolist(), strict=True))
    assert asked == follows


def test_next_basket_sees_nothing_of_its_window(prepared: Prepared) -> None:
    config = TRAIN.model_copy(update={"objective": "next_basket", "window_days": 5.0, "windows": 3})
    histories = prepared[1].train
    model = MODEL.model_copy(update={"repeat": True})
    for batch in batches(histories, 20, model, config, np.random.default_rng(0)):
        assert batch.repeats is not None
        user_of_target = batch.target_question.numpy()
        known = set(zip(batch.repeats.users().tolist(), batch.repeats.product_index.tolist(), strict=True))
        asked = set(zip(user_of_target.tolist(), batch.target_product.tolist(), strict=True))
        assert asked  # in this shop nobody buys a thing twice, so what is asked for is never known
        assert not asked & known
        shares = np.bincount(user_of_target, batch.target_share.numpy())
        np.testing.assert_allclose(shares, 1, rtol=1e-6)


def test_one_late_event_does_not_use_up_the_windows(prepared: Prepared) -> None:
    histories = prepared[1].train
    years_later = histories.at_ms.copy()
    years_later[histories.offsets[1] - 1] += 1000 * DAY_MS  # the last interaction of the first user
    late = replace(histories, at_ms=years_later)
    config = TRAIN.model_copy(update={"objective": "next_basket", "window_days": 5.0, "windows": 3})
    found = list(batches(late, 20, MODEL, config, np.random.default_rng(0)))
    assert len({int(user) for batch in found for user in batch.target_question}) > 1


def test_what_is_bought_again_is_ranked_first_where_repeats_count(cache: Path) -> None:
    generator = np.random.default_rng(1)
    weeks, users = 12, 30
    staples = generator.integers(0, 20, (users, 3))  # each user has three products that are bought every week
    product = np.concatenate([np.tile(staples[user], weeks) for user in range(users)]).astype(np.int32)
    at_ms = np.tile(np.repeat(np.arange(weeks) * 7 * DAY_MS, 3), users)
    count = len(product)
    snapshot = small_shop()
    histories = Histories(
        np.arange(users + 1) * weeks * 3, product, np.full(count, 4, np.int8), at_ms, np.ones(count, np.float32)
    )
    again = Snapshot(**{**vars(snapshot), "histories": histories})
    split = make_split(again, SplitConfig(protocol="temporal", repeats=True, validation_days=7, test_days=7))
    model = MODEL.model_copy(update={"repeat": True})
    graph = product_graph(again, split.train, model)
    text = encode_cached(graph.texts, model.text, cache)
    config = TRAIN.model_copy(update={"objective": "next_basket", "window_days": 7.0, "windows": 6})
    result = train(again, split, text, graph, model, config)
    assert result.validation_ndcg > 0.95


@pytest.mark.parametrize("fewer", [{"epochs": 2}, {"patience": 1}])
def test_fewer_epochs_or_less_patience_give_what_an_unbroken_run_gives(
    prepared: Prepared, tmp_path: Path, fewer: dict[str, int]
) -> None:
    long = TRAIN.model_copy(update={"epochs": 8, "patience": 8})
    run(prepared, config=long, checkpoint_folder=tmp_path)
    short = long.model_copy(update=fewer)
    resumed = run(prepared, config=short, checkpoint_folder=tmp_path, resume=True)
    unbroken = run(prepared, config=short)
    assert [record.epoch for record in resumed.records] == [record.epoch for record in unbroken.records]
    assert torch.equal(resumed.model.matrix, unbroken.model.matrix)


def test_training_a_small_graph_leaves_the_threads_as_they_were(prepared: Prepared) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(prepared, config=TRAIN.model_copy(update={"epochs": 1}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
