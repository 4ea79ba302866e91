"""Time to the best validation NDCG@10 on Beauty: kgrank against SASRec with sampled softmax.

    python -m benchmarks.time_to_best HOME [--config configs/beauty-no-also.toml] [--threads 1] [--epochs-sasrec 200]

HOME holds a snapshot of the data. Both train on the same split in one run, on the same threads, and are judged on the
same validation users; the test case is not touched. Seconds count from the start of a fit to the end of the epoch whose
validation is the best: for kgrank that is graph and text encoding too, with an empty cache. Seconds of the processor
stand beside those of the clock, which a shared machine blurs. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from kg.snapshot import Snapshot
from model.baselines import fit_data
from model.baselines.sasrec import SasRecConfig
from model.baselines.sasrec_training import train as train_sasrec
from model.baselines.stopping import VALIDATION_USERS
from model.pipeline import Listener, fit_model
from model.settings import RunSettings, read_run_settings
from model.splits import Split, make_split


@dataclass(frozen=True)
class Moment:
    """Where a training stood after an epoch."""

    epoch: int
    ndcg: float
    clock_s: float
    cpu_s: float


class Stopwatch:
    """Seconds since it was made, and what was noted after every epoch."""

    def __init__(self, name: str) -> None:
        self._name, self._clock, self._cpu = name, time.monotonic(), time.process_time()
        self.moments: list[Moment] = []
        self.ready: Moment | None = None

    def note(self, epoch: int, ndcg: float) -> None:
        """Remember an epoch; epoch 0 is the moment before the first step."""
        moment = Moment(epoch, ndcg, time.monotonic() - self._clock, time.process_time() - self._cpu)
        if epoch == 0:
            self.ready = moment
            return
        self.moments.append(moment)
        print(
            f"{self._name} epoch {epoch}: NDCG@10 {ndcg:.4f} after {moment.cpu_s:.0f} s of processor", file=sys.stderr
        )

    def best(self) -> Moment:
        """Return the epoch with the best validation."""
        return max(self.moments, key=lambda moment: moment.ndcg)

    def first_above(self, ndcg: float) -> Moment | None:
        """Return the first epoch whose validation is at least so good."""
        return next((moment for moment in self.moments if moment.ndcg >= ndcg), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/beauty-no-also.toml"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of kgrank, instead of the configuration's")
    parser.add_argument("--epochs-sasrec", type=int, default=SasRecConfig().epochs)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    settings = read_run_settings(options.config)
    train = settings.train.model_copy(
        update={
            "threads": options.threads,
            "epochs": options.epochs or settings.train.epochs,
            "validation_users": VALIDATION_USERS,  # those that SASRec is judged on, drawn by the same seed
        }
    )
    settings = settings.model_copy(update={"train": train})
    snapshots = options.home / "snapshots"
    snapshot = Snapshot.open(snapshots / (snapshots / "LATEST").read_text().strip())
    split = make_split(snapshot, settings.split)
    with tempfile.TemporaryDirectory(prefix="kgrank-time-") as folder:
        ours = _ours(snapshot, split, settings, Path(folder))
        peer = _sasrec(snapshot, split, settings, options, Path(folder))
    best, best_peer = ours.best(), peer.best()
    passed = ours.first_above(best_peer.ndcg)
    print(
        json.dumps(
            {
                "benchmark": "time_to_best",
                "kgrank": asdict(best),
                "kgrank_before_first_epoch": asdict(ours.ready) if ours.ready else None,
                "kgrank_at_sasrecs_best": asdict(passed) if passed else None,
                "sasrec": asdict(best_peer),
                "ratio_cpu": round(best.cpu_s / best_peer.cpu_s, 3),
                "ratio_clock": round(best.clock_s / best_peer.clock_s, 3),
                "epochs_run": {"kgrank": len(ours.moments), "sasrec": len(peer.moments)},
                "users": len(split.train),
                "products": len(snapshot.products),
                "config": str(options.config),
                "threads": options.threads,
                "torch": version("torch"),
                "machine": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_1m": round(os.getloadavg()[0], 1),
            }
        )
    )


def _ours(snapshot: Snapshot, split: Split, settings: RunSettings, folder: Path) -> Stopwatch:
    watch = Stopwatch("kgrank")

    def on_step(step: int, steps: int, loss: float) -> None:
        if watch.ready is None:
            watch.note(0, 0.0)

    listener = Listener(on_step=on_step, on_epoch=lambda record: watch.note(record.epoch, record.ndcg))
    fit_model(snapshot, split, settings.model, settings.train, folder, listener=listener)
    return watch


def _sasrec(
    snapshot: Snapshot, split: Split, settings: RunSettings, options: argparse.Namespace, folder: Path
) -> Stopwatch:
    data = fit_data(
        snapshot,
        split.train,
        split.validation,
        settings.model,
        folder,
        seed=settings.train.seed,
        threads=options.threads,
    )
    watch = Stopwatch("sasrec")
    heard = replace(data, on_epoch=lambda config, record: watch.note(record.epoch, record.ndcg))
    train_sasrec(heard, SasRecConfig(epochs=options.epochs_sasrec))
    return watch


if __name__ == "__main__":
    main()
