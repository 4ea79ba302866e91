import json
import os
import subprocess
import sys
from pathlib import Path

from tests.model.small_shop import saved_shop
from tests.server.command import CommandLine, kgrank
from tests.waiting import until

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
    saved_shop(tmp_path)
    (tmp_path / "kgrank.toml").write_text(SETTINGS, encoding="utf-8")
    done = kgrank(tmp_path, "--config", str(tmp_path / "kgrank.toml"), "train", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (tmp_path / "artifacts" / "LATEST").read_text(encoding="utf-8") == said["model_version"]
    assert len(said["epochs"]) == 2
    assert (Path(said["folder"]) / "manifest.json").is_file()


def test_two_trainings_on_a_snapshot_do_not_spoil_each_others_checkpoints(tmp_path: Path, kgrank: CommandLine) -> None:
    saved_shop(tmp_path)
    (tmp_path / "kgrank.toml").write_text(SETTINGS, encoding="utf-8")
    endless = SETTINGS.replace("epochs = 2", "epochs = 10_000\npatience = 1000")
    (tmp_path / "endless.toml").write_text(endless, encoding="utf-8")
    command = [sys.executable, "-m", "server.main", "--config", str(tmp_path / "endless.toml"), "train"]
    with subprocess.Popen(
        command, env=os.environ | {"KGRANK_HOME": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        try:
            until(lambda: first.poll() is not None or any((tmp_path / "checkpoints").glob("*/*.safetensors")))
            (checkpoint,) = (tmp_path / "checkpoints").glob("*/*.safetensors")
            config = ("--config", str(tmp_path / "kgrank.toml"))
            beside = kgrank(tmp_path, *config, "train")
            assert beside.code == 1
            assert "another training or fine-tuning on this snapshot is under way" in " ".join(beside.err.split())
            tuning = kgrank(tmp_path, "--config", tuning_of(tmp_path), "finetune")
            assert tuning.code == 1
            assert "another training or fine-tuning on this snapshot is under way" in " ".join(tuning.err.split())
            # The first one goes on as if nothing had been.
            written = checkpoint.stat().st_mtime_ns
            until(lambda: first.poll() is not None or checkpoint.stat().st_mtime_ns > written)
            assert first.poll() is None
        finally:
            first.kill()
    after = kgrank(tmp_path, *config, "train")
    assert after.code == 0, after.err


def tuning_of(folder: Path) -> str:
    """Write settings with fine-tuning, and return their file."""
    (folder / "tuning.toml").write_text(f'{SETTINGS}[finetune]\nmethod = "last"\n', encoding="utf-8")
    return str(folder / "tuning.toml")


def test_relations_that_are_not_there_are_told_and_misspelt_ones_refused(tmp_path: Path, kgrank: CommandLine) -> None:
    saved_shop(tmp_path)
    excluded = SETTINGS.replace("[model]", '[model]\nexclude_relations = ["ALSO_BOUGHT", "PROMOTED", "BOUGHT_TOGETER"]')
    (tmp_path / "kgrank.toml").write_text(excluded, encoding="utf-8")
    done = kgrank(tmp_path, "--config", str(tmp_path / "kgrank.toml"), "train")
    assert done.code == 1
    said = " ".join(done.err.split())
    assert "the snapshot has no PROMOTED, BOUGHT_TOGETER; it has BOUGHT_TOGETHER, " in said
    assert "is BOUGHT_TOGETHER meant?" in said


def test_training_without_a_snapshot_is_one_sentence(tmp_path: Path, kgrank: CommandLine) -> None:
    done = kgrank(tmp_path, "train")
    assert done.code == 1
    assert "there is no snapshot" in done.err
    assert "kgrank snapshot" in done.err
