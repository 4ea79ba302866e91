import json
from pathlib import Path

from tests.model.small_shop import small_shop
from tests.server.command import CommandLine, kgrank

__all__ = ["kgrank"]  # the fixture

SETTINGS = """
[model]
dimension = 16
layers = 1
text_kernel_dimension = 8
[train]
epochs = 2
batch_users = 16
"""


def test_training_makes_an_artifact_and_points_to_it(tmp_path: Path, kgrank: CommandLine) -> None:
    small_shop().save(tmp_path / "snapshots" / "small")
    (tmp_path / "snapshots" / "LATEST").write_text("small", encoding="utf-8")
    (tmp_path / "kgrank.toml").write_text(SETTINGS, encoding="utf-8")
    done = kgrank(tmp_path, "--config", str(tmp_path / "kgrank.toml"), "train", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (tmp_path / "artifacts" / "LATEST").read_text(encoding="utf-8") == said["model_version"]
    assert len(said["epochs"]) == 2
    assert (Path(said["folder"]) / "manifest.json").is_file()


def test_training_without_a_snapshot_is_one_sentence(tmp_path: Path, kgrank: CommandLine) -> None:
    done = kgrank(tmp_path, "train")
    assert done.code == 1
    assert "there is no snapshot" in done.err
    assert "kgrank snapshot" in done.err
