import json
import re
from pathlib import Path

import pytest

from tests.model.small_shop import saved_shop
from tests.model.tiny_encoder import tiny_encoder
from tests.server.command import CommandLine, kgrank

__all__ = ["kgrank"]  # the fixture

SETTINGS = """
[model]
dimension = 16
layers = 1
text_kernel_dimension = 8
[model.text]
encoder = "{encoder}"
[finetune]
method = "last"
layers = 1
epochs = 1
[train]
epochs = 1
batch_users = 16
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    saved_shop(tmp_path)
    settings = SETTINGS.format(encoder=tiny_encoder(tmp_path / "tiny"))
    (tmp_path / "kgrank.toml").write_text(settings, encoding="utf-8")
    return tmp_path


def test_training_uses_what_fine_tuning_made(home: Path, kgrank: CommandLine) -> None:
    config = ("--config", str(home / "kgrank.toml"))
    tuned = kgrank(home, *config, "finetune", "--json")
    assert tuned.code == 0, tuned.err
    said = json.loads(tuned.out)
    assert Path(said["folder"]) == home / "encoders" / said["encoder"]
    assert 0 <= said["measure"] <= 1
    trained = kgrank(home, *config, "train", "--json")
    assert trained.code == 0, trained.err
    assert "fine-tuning, epoch" not in trained.err, "it is there already"
    artifact = Path(json.loads(trained.out)["folder"])
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["config"]["model"]["text"]["encoder"] == "./encoder"
    assert (artifact / "encoder" / "finetune.toml").read_text(encoding="utf-8").count(said["encoder"])

    # The baselines beside it read texts by the same encoder, wherever the command is run.
    asked = ("evaluate", "--baselines", "text_only", "--json")
    beside = kgrank(home, *config, *asked)
    assert beside.code == 0, beside.err
    assert [each["ranker"] for each in json.loads(beside.out)["cases"][0]["results"]] == ["text_only", artifact.name]


def test_an_encoder_that_may_have_learned_the_answers_is_not_measured(home: Path, kgrank: CommandLine) -> None:
    plain = ("--config", str(home / "kgrank.toml"))
    tuned = kgrank(home, *plain, "finetune", "--json")
    assert tuned.code == 0, tuned.err
    settings = SETTINGS.format(encoder=json.loads(tuned.out)["folder"])
    (home / "tuned.toml").write_text(settings, encoding="utf-8")
    config = ("--config", str(home / "tuned.toml"))
    asked = ("evaluate", "--artifact", "none", "--baselines", "text_only")
    same = kgrank(home, *config, *asked)
    assert same.code == 0, same.err

    other_split = kgrank(home, *config, *asked, "--protocol", "cold-products")
    assert other_split.code == 1
    said = " ".join(other_split.err.split())
    assert "was fine-tuned with split.protocol = 'leave-one-out', not 'cold-products'" in said
    assert "kgrank finetune" in said

    # What was made of it has learned the same, on whatever split.
    (home / "tuned.toml").write_text(f"{settings}[split]\nprotocol = 'cold-products'\n", encoding="utf-8")
    twice = kgrank(home, *config, "finetune", "--json")
    assert twice.code == 0, twice.err
    (home / "twice.toml").write_text(SETTINGS.format(encoder=json.loads(twice.out)["folder"]), encoding="utf-8")
    of_it = kgrank(home, "--config", str(home / "twice.toml"), *asked, "--protocol", "cold-products")
    assert of_it.code == 1
    assert json.loads(tuned.out)["folder"] in of_it.err.replace("\n", "")

    folder = home / "snapshots" / "small"
    described = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    described["content_hash"] = "0" * len(described["content_hash"])
    (folder / "manifest.json").write_text(json.dumps(described), encoding="utf-8")
    other_snapshot = kgrank(home, "--config", str(home / "twice.toml"), *asked)
    assert other_snapshot.code == 1
    told = re.compile(r"was fine-tuned on snapshot \w{12}, not on 000000000000")
    assert told.search(" ".join(other_snapshot.err.split()))

    # A model may be trained with it all the same: what it knows of the past is none the worse.
    untuned = re.sub(r"(?s)\[finetune\].*(?=\[train\])", "", (home / "twice.toml").read_text(encoding="utf-8"))
    (home / "untuned.toml").write_text(untuned, encoding="utf-8")
    trained = kgrank(home, "--config", str(home / "untuned.toml"), "train")
    assert trained.code == 0, trained.err
    said = " ".join(trained.err.split())
    assert told.search(said)
    assert "kgrank evaluate refuses the model" in said


def test_fine_tuning_that_is_not_asked_for_is_one_sentence(tmp_path: Path, kgrank: CommandLine) -> None:
    done = kgrank(tmp_path, "finetune")
    assert done.code == 1
    assert "finetune.method is none" in done.err
    assert "lora" in done.err
