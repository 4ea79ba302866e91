import json
from pathlib import Path

import pytest

from tests.model.small_shop import small_shop
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
    small_shop().save(tmp_path / "snapshots" / "small")
    (tmp_path / "snapshots" / "LATEST").write_text("small", encoding="utf-8")
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


def test_fine_tuning_that_is_not_asked_for_is_one_sentence(tmp_path: Path, kgrank: CommandLine) -> None:
    done = kgrank(tmp_path, "finetune")
    assert done.code == 1
    assert "finetune.method is none" in done.err
    assert "lora" in done.err
