"""Fine-tuning on a shop whose words only its histories explain, with a tiny encoder made here."""

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import sparse

from kg.errors import MissingExtraError
from kg.snapshot import Snapshot
from model.artifact import load_artifact, save_artifact
from model.config import FinetuneConfig, ModelConfig, TextConfig
from model.errors import ArtifactError, ModelError
from model.finetune.contrastive import masked_info_nce
from model.finetune.encoder import LearningEncoder
from model.finetune.pairs import positive_pairs
from model.finetune.run import TuningListener, finetune
from model.finetune.store import TunedEncoder, find_encoder
from model.finetune.text_ranking import TextRanker, cold_part, quality
from model.pipeline import fit_model
from model.refresh import refresh
from model.splits import Split, SplitConfig, make_split
from model.text import TextEncoder, encode_cached
from tests.model.riddle_shop import riddle_shop
from tests.model.small_shop import MODEL, TRAIN
from tests.model.tiny_encoder import tiny_encoder

CPU = torch.device("cpu")
CONFIG = FinetuneConfig(
    method="full", epochs=5, patience=5, batch_products=4, learning_rate=5e-3, temperature=0.2, cold_interactions=0
)
METHODS = {
    "full": {"method": "full"},
    "last": {"method": "last", "layers": 1, "learning_rate": 2e-2},
    "lora": {"method": "lora", "layers": 0, "learning_rate": 2e-2},
    "the batch's own negatives": {"memory_products": 0, "batch_products": 8},
}
"""Each way to fine-tune, with the step size it needs here."""


@pytest.fixture(scope="module")
def shop() -> tuple[Snapshot, Split]:
    snapshot = riddle_shop()
    return snapshot, make_split(snapshot, SplitConfig())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return MODEL.model_copy(update={"text": TextConfig(encoder=str(folder), precision="fp32", batch_tokens=64)})


def tune(
    shop: tuple[Snapshot, Split], model: ModelConfig, encoders: Path, config: FinetuneConfig = CONFIG, **options: object
) -> TunedEncoder:
    return finetune(*shop, model, TRAIN, config, encoders, **options)  # type: ignore[arg-type]  # as given


def histories_of(snapshot: Snapshot, *users: tuple[str, ...]) -> Snapshot:
    """Return the snapshot with other histories, one a user."""
    index = {name: row for row, name in enumerate(snapshot.products.array.to_pylist())}
    rows = np.array([index[name] for user in users for name in user], np.int32)
    offsets = np.cumsum([0, *map(len, users)]).astype(np.int64)
    zeros = np.zeros(len(rows))
    histories = replace(
        snapshot.histories,
        offsets=offsets,
        product_index=rows,
        type=zeros.astype(np.int8),
        at_ms=np.arange(len(rows)),
        value=zeros.astype(np.float32),
    )
    return replace(snapshot, histories=histories)


def test_pairs_weigh_by_distance_in_a_history_and_by_facts_that_may_be_seen(shop: tuple[Snapshot, Split]) -> None:
    snapshot = histories_of(shop[0], ("green", "tea", "leaves", "green"), ("tea", "leaves"))
    config = CONFIG.model_copy(update={"lags": 2, "lag_decay": 0.5, "fact_weight": 0.25, "likeness_weight": 0.0})
    names = snapshot.products.array.to_pylist()

    def weights(exclude: tuple[str, ...]) -> dict[tuple[str, str], float]:
        found = positive_pairs(snapshot, snapshot.histories, exclude, config, np.random.default_rng(0))
        assert abs(found - found.T).max() == 0
        upper = sparse.triu(found).tocoo()
        return {
            tuple(sorted((names[row], names[column]))): value  # type: ignore[misc]  # two names
            for row, column, value in zip(upper.row, upper.col, upper.data, strict=True)
        }

    # tea-leaves twice in turn; leaves-green in turn and at two steps; tea-green in turn and at two steps
    seen = {("leaves", "tea"): 2.0, ("green", "leaves"): 1.5, ("green", "tea"): 1.5}
    assert weights(("BOUGHT_TOGETHER",)) == seen
    assert weights(()) == seen | {("bolt", "green"): 0.25}


def test_products_of_one_brand_are_weaker_pairs(shop: tuple[Snapshot, Split]) -> None:
    snapshot = histories_of(shop[0], ("green",))
    config = CONFIG.model_copy(update={"fact_weight": 0.0, "likeness_weight": 0.05})
    index = {name: row for row, name in enumerate(snapshot.products.array.to_pylist())}
    draws = [positive_pairs(snapshot, snapshot.histories, (), config, np.random.default_rng(seed)) for seed in range(8)]
    weight = sum(draws).toarray()
    assert weight[index["tea"], index["drinks"]] > 0
    assert np.count_nonzero(weight) == 2, "nothing else shares a node"


def test_pairs_are_of_training_alone(shop: tuple[Snapshot, Split]) -> None:
    snapshot, split = shop
    config = CONFIG.model_copy(update={"lags": 1, "fact_weight": 0.0, "likeness_weight": 0.0})
    pairs = positive_pairs(snapshot, split.train, (), config, np.random.default_rng(0))
    assert pairs.sum() == 2 * (len(split.train.product_index) - len(split.train))


def test_the_loss_is_that_of_its_formula() -> None:
    generator = np.random.default_rng(4)
    keys = torch.nn.functional.normalize(torch.from_numpy(generator.normal(size=(6, 5))), dim=1)
    right = np.array([[0, 0.2, 0, 0.8, 0, 0], [0.2, 0, 0, 0, 0, 0.6], [0, 0, 0, 0, 0, 0]])
    scores = (keys[:3] @ keys.T / 0.3).numpy()
    each = []
    for row in range(2):  # the third anchor has nothing to find here
        wrong = sum(np.exp(scores[row, other]) for other in range(6) if other != row and not right[row, other])
        losses = [-np.log(np.exp(scores[row, key]) / (np.exp(scores[row, key]) + wrong)) for key in range(6)]
        each.append((right[row] / right[row].sum() * losses).sum())
    found = masked_info_nce(keys[:3], keys, sparse.coo_matrix(right), torch.tensor(0.3))
    assert float(found) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize(
    ("update", "learning", "resting"),
    [
        ({"method": "full"}, "embeddings.word_embeddings.weight", "pooler.dense.weight"),
        ({"method": "last", "layers": 1}, "encoder.layer.1.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        ({"method": "lora", "layers": 1}, "lora_", "base_layer"),
    ],
)
def test_only_what_the_method_names_learns(
    model: ModelConfig, update: dict[str, object], learning: str, resting: str
) -> None:
    encoder = LearningEncoder(model.text, CONFIG.model_copy(update=update | {"lower_cache_mib": 0}), ["tea"], CPU)
    free = {name: weight.requires_grad for name, weight in encoder._model.named_parameters()}
    assert any(free[name] for name in free if learning in name)
    assert not any(free[name] for name in free if resting in name)


def test_lower_layers_learn_more_slowly(model: ModelConfig) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1.0, "layer_decay": 0.5})
    encoder = LearningEncoder(model.text, config, ["tea"], CPU)
    names = {id(weight): name for name, weight in encoder._model.named_parameters()}
    rates = {
        names[id(weight)]: (group["lr"], group["weight_decay"])
        for group in encoder.parameter_groups()
        for weight in group["params"]
    }
    assert rates["encoder.layer.1.output.dense.weight"] == (1.0, CONFIG.weight_decay)
    assert rates["encoder.layer.0.output.dense.weight"] == (0.5, CONFIG.weight_decay)
    assert rates["embeddings.word_embeddings.weight"] == (0.25, CONFIG.weight_decay)
    assert rates["encoder.layer.1.output.LayerNorm.bias"] == (1.0, 0.0)


@pytest.mark.parametrize("method", ["last", "lora"])
def test_what_lower_layers_make_is_kept_without_changing_a_feature(model: ModelConfig, method: str) -> None:
    texts = ["green tea", "cordless power drill tools", "", "leaf"]
    config = CONFIG.model_copy(update={"method": method, "layers": 1})
    kept = LearningEncoder(model.text, config, texts, CPU)
    whole = LearningEncoder(model.text, config.model_copy(update={"lower_cache_mib": 0}), texts, CPU)
    assert kept._lower is not None
    assert whole._lower is None
    torch.testing.assert_close(kept.encode_all(), whole.encode_all())
    torch.testing.assert_close(kept(np.array([3, 1])), kept.encode_all()[[3, 1]])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_what_belongs_together(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path, method: str
) -> None:
    snapshot, split = shop
    tuned = tune(shop, model, tmp_path, CONFIG.model_copy(update=METHODS[method]))
    assert tuned.measures["measure"] > tuned.measures["measure_before"] + 0.1
    # And so says the encoder as everything else reads it from its folder: LoRA is merged, the layers are whole.
    texts = snapshot.catalogue["text"].to_pylist()
    config = model.text.model_copy(update={"encoder": str(tuned.folder)})
    features = torch.from_numpy(TextEncoder(config).encode(texts))
    ranker = TextRanker(features, model.text_decay, model.history_length)
    reached = quality(ranker, split.validation, cold_part(split.validation, split.train, 0))
    assert reached.ndcg == pytest.approx(tuned.measures["ndcg@10"], abs=1e-6)
    assert reached.cold_ndcg is None


@pytest.mark.parametrize("method", ["full", "last", "lora"])
def test_checkpointed_layers_have_the_same_features_and_gradients(model: ModelConfig, method: str) -> None:
    texts = ["green tea", "cordless power drill tools", "leaf"]
    config = CONFIG.model_copy(update={"method": method, "layers": 1})
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(3)  # what LoRA begins with
        encoder = LearningEncoder(
            model.text, config.model_copy(update={"gradient_checkpointing": checkpointed}), texts, CPU
        )
        encoder.train(True)
        assert encoder._model.is_activation_checkpointing == checkpointed
        for part in encoder._model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        torch.manual_seed(3)
        features = encoder(np.array([0, 2, 1]))
        (features @ features.T).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([features, *(weight.grad for weight in encoder.parameters)])
    plain, again = found
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in plain[1:])


def test_an_encoder_learns_in_bf16_and_its_weights_stay_whole(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    half = model.model_copy(update={"text": model.text.model_copy(update={"precision": "bf16"})})
    rounded, whole = (LearningEncoder(each.text, CONFIG, ["tea", "drill"], CPU).encode_all() for each in (half, model))
    assert not torch.equal(rounded, whole)
    torch.testing.assert_close(rounded, whole, atol=0.02, rtol=0.02)
    tuned = tune(shop, half, tmp_path, CONFIG)
    assert tuned.measures["measure"] > tuned.measures["measure_before"] + 0.1
    weights = load_file(tuned.folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}


def test_end_to_end_teaches_the_encoder_by_the_ranking_loss(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"objective": "end_to_end", "batch_products": 6})
    tuned = tune(shop, model, tmp_path, config)
    assert tuned.measures["measure"] > tuned.measures["measure_before"]
    texts = shop[0].catalogue["text"].to_pylist()
    before, after = (
        TextEncoder(TextConfig(encoder=str(folder), precision="fp32")).encode(texts)
        for folder in (model.text.encoder, tuned.folder)
    )
    assert (before * after).sum(1).max() < 0.999


def test_an_encoder_that_fine_tuning_does_not_help_stays_as_it_was(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e-9, "epochs": 2, "patience": 1})
    epochs: list[int] = []
    tuned = tune(
        shop,
        model,
        tmp_path,
        config,
        listener=TuningListener(on_epoch=lambda record, quality: epochs.append(record.epoch)),
    )
    assert epochs == [0, 1], "patience ends it"
    assert tuned.measures["epoch"] == 0
    texts = ["green tea", "drill"]
    before, after = (
        TextEncoder(TextConfig(encoder=str(folder), precision="fp32")).encode(texts)
        for folder in (model.text.encoder, tuned.folder)
    )
    np.testing.assert_array_equal(before, after)


def test_the_same_seed_gives_the_same_encoder_and_it_is_made_once(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"epochs": 1, "learn_temperature": True})
    one, other = (tune(shop, model, tmp_path / name, config) for name in ("one", "other"))
    assert one.content == other.content == one.folder.name
    steps: list[int] = []
    again = tune(shop, model, tmp_path / "one", config, listener=TuningListener(lambda step, *_: steps.append(step)))
    assert again == one
    assert not steps
    third = tune(shop, model, tmp_path / "one", config.model_copy(update={"seed": 8}))
    assert third.content != one.content


def test_trainings_of_other_seeds_share_an_encoder_unless_they_ask_other_users(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    config, epochs = CONFIG.model_copy(update={"epochs": 1}), list[int]()
    hears = TuningListener(on_epoch=lambda record, _: epochs.append(record.epoch))
    for few, again in ((False, []), (True, [0, 1])):
        users = {"validation_users": len(shop[1].validation) // 2} if few else {}
        for seed in (1, 2):
            epochs.clear()
            train = TRAIN.model_copy(update={"seed": seed, **users})
            finetune(*shop, model, train, config, tmp_path, listener=hears)
        assert epochs == again


def test_lora_without_its_package_says_what_to_install(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(library: str) -> str:
        if library == "peft":
            raise PackageNotFoundError(library)
        return version(library)

    monkeypatch.setattr("model.libraries.version", missing)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="LoRA needs the package peft"):
        tune(shop, model, tmp_path, CONFIG.model_copy(update={"method": "lora"}))


def test_a_killed_run_goes_on_to_the_same_encoder(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"method": "lora", "layers": 0})
    unbroken = tune(shop, model, tmp_path / "unbroken", config)

    class KilledError(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if len(done) == 2 and step == 2:
            raise KilledError

    done: list[int] = []
    listener = TuningListener(kill, lambda record, quality: done.append(record.epoch))
    place = {"checkpoint_folder": tmp_path / "checkpoint"}
    with pytest.raises(KilledError):
        tune(shop, model, tmp_path / "resumed", config, listener=listener, **place)
    done.clear()
    listener = TuningListener(on_epoch=lambda record, quality: done.append(record.epoch))
    resumed = tune(shop, model, tmp_path / "resumed", config, resume=True, listener=listener, **place)
    assert done == [2, 3, 4, 5]
    assert resumed.content == unbroken.content
    assert not (tmp_path / "checkpoint").exists()


def test_a_damaged_encoder_is_made_again(shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    tuned = tune(shop, model, tmp_path, config)
    weights = tuned.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert find_encoder(tmp_path, tuned.origin.run_key) is None
    assert tune(shop, model, tmp_path, config).content == tuned.content
    assert find_encoder(tmp_path, tuned.origin.run_key) is not None


def test_an_artifact_keeps_its_encoder_for_products_that_join_later(
    shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path
) -> None:
    snapshot, split = shop
    trained = fit_model(
        snapshot,
        split,
        model,
        TRAIN.model_copy(update={"epochs": 1}),
        tmp_path / "cache",
        finetune_config=CONFIG.model_copy(update={"epochs": 1}),
        encoders_folder=tmp_path / "encoders",
    )
    folder = save_artifact(tmp_path / "artifacts", snapshot, split, trained, TRAIN)
    (tuned,) = (tmp_path / "encoders").iterdir()
    for path in tuned.iterdir():
        path.unlink()  # the artifact does not need it any more
    moved = folder.rename(tmp_path / "moved")
    artifact = load_artifact(moved)
    config = artifact.scorer.network.config.text
    assert config.encoder == str(moved / "encoder")
    later = riddle_shop(new=("zebra",))
    model_later = refresh(artifact, later, tmp_path / "other-cache")
    text = encode_cached(later.catalogue["text"].to_pylist(), config, tmp_path / "other-cache")
    expected = artifact.kernel(torch.from_numpy(text))
    torch.testing.assert_close(model_later.matrix[:, model_later.blocks["text"]], expected)
    old = [row for row, name in enumerate(later.products.array.to_pylist()) if name != "zebra"]
    torch.testing.assert_close(
        model_later.matrix[old][:, model_later.blocks["text"]],
        artifact.scorer.matrix[:, artifact.scorer.blocks["text"]],
        atol=1e-3,
        rtol=0,
    )
    (moved / "encoder" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"encoder/config.json is damaged"):
        load_artifact(moved)


def test_mistakes_are_one_clear_error(shop: tuple[Snapshot, Split], model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="method is none"):
        tune(shop, model, tmp_path, FinetuneConfig())
    nowhere = model.model_copy(update={"text": TextConfig(encoder=str(tmp_path / "nothing"))})
    for objective in ("contrastive", "end_to_end"):
        with pytest.raises(ModelError, match="can't be loaded"):
            tune(shop, nowhere, tmp_path, CONFIG.model_copy(update={"objective": objective}))
    alone = histories_of(shop[0], ("green",), ("tea",))
    nothing = {"fact_weight": 0.0, "likeness_weight": 0.0}
    lonely = replace(shop[1], train=alone.histories)
    with pytest.raises(ModelError, match="no two products belong together"):
        tune((alone, lonely), model, tmp_path, CONFIG.model_copy(update=nothing))
