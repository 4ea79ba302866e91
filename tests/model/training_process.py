"""A training run in a process of its own, on the small shop: python -m tests.model.training_process FOLDER [options].

Leaves `result-<rank>.npz` in the folder: product matrix and validation NDCG; and the artifact's digests.
"""

import argparse
import json
import os
import signal
from pathlib import Path

import numpy as np

from model import precision
from model.artifact import read_manifest, save_artifact
from model.config import ModelConfig, TrainConfig
from model.pipeline import Listener, fit_model
from model.splits import SplitConfig, make_split
from model.tracking import Tracking
from model.workers import joined_workers
from tests.model.small_shop import MODEL, TRAIN, small_shop

# 40 users in steps of 13: the last step has one, so the second of two processes has none.
CONFIG = TRAIN.model_copy(update={"batch_users": 13, "threads": 1, "device": "cpu"})
PLAIN = MODEL.model_copy(update={"dropout": 0.0, "id_dropout": 0.0})


def without_rounding() -> None:
    """Compute in float32 throughout, so that the order of sums is all that can differ."""
    precision._processor_computes_in_bf16 = lambda: False  # type: ignore[assignment]  # of a process that does nothing else


def run(
    folder: Path, model: ModelConfig, config: TrainConfig, *, resume: bool = False, kill_at_step: int = 0
) -> dict[str, str]:
    """Train, keep the artifact, and return the digests of its files."""
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    steps = 0

    def on_step(step: int, count: int, loss: float) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    with joined_workers(config) as workers:
        trained = fit_model(
            snapshot,
            split,
            model,
            config,
            folder / "cache",
            checkpoint_folder=folder / "checkpoint",
            resume=resume,
            tracking=Tracking(folder / "runs"),
            listener=Listener(on_step=on_step),
        )
    np.savez(folder / f"result-{workers.rank}.npz", matrix=trained.model.matrix.numpy(), ndcg=trained.validation_ndcg)
    if not workers.first:
        return {}
    return read_manifest(save_artifact(folder / "artifacts", snapshot, split, trained, config)).digests


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at-step", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without dropout and bf16")
    parser.add_argument("--set", type=json.loads, default={}, help="settings of [train], JSON")
    options = parser.parse_args()
    if options.plain:
        without_rounding()
    run(
        options.folder,
        PLAIN if options.plain else MODEL,
        CONFIG.model_copy(update=options.set),
        resume=options.resume,
        kill_at_step=options.kill_at_step,
    )


if __name__ == "__main__":
    main()
