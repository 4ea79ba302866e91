"""What a refit is worth, and what it costs: anew, or on from the chosen network, asked on validation data.

    python -m benchmarks.refit HOME [--config configs/beauty-no-also.toml] [--seed 11] [--threads 1]

HOME holds a snapshot of the data. The last interactions that the test asks for are taken out of it first; what is left
is split again, so that its "test" is of what the configuration's own validation asks. One network is trained, with its
neighbours, and refitted in each way. Prints one JSON line.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from kg.snapshot import Snapshot
from model.blend import fit_blend
from model.config import TrainConfig
from model.learned_neighbours import AnyNeighbours
from model.neighbours import fit_neighbours
from model.product_graph import product_graph
from model.settings import RunSettings, read_run_settings
from model.splits import Split, make_split
from model.text import encode_cached
from model.train import Trained, train, validation_ndcg, validation_sample

WAYS = {"anew": (0, 1.0), "on 1": (1, 0.5), "on 2": (2, 0.5), "on 3": (3, 0.5), "on 1, whole step": (1, 1.0)}
"""Epochs that a refit goes on for, and its step size; 0 begins anew."""


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/beauty-no-also.toml"))
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    settings = read_run_settings(options.config)
    if settings.split.protocol != "leave-one-out" or settings.model.neighbours.kind == "learned":
        parser.error(f"--config {options.config}: leave-one-out, without learned neighbours, is what can be asked here")
    folder = options.home / "snapshots"
    data = Snapshot.open(folder / (folder / "LATEST").read_text(encoding="utf-8").strip())
    earlier = replace(data, histories=make_split(data, settings.split).test.known)
    config = settings.train.model_copy(update={"seed": options.seed, "threads": options.threads, "members": 1})
    print(
        json.dumps(
            {
                "benchmark": "refit",
                "config": options.config.name,
                "seed": options.seed,
                "ndcg@10": measured(earlier, make_split(earlier, settings.split), settings, config, options.home),
            }
        )
    )


def measured(
    snapshot: Snapshot, split: Split, settings: RunSettings, config: TrainConfig, home: Path
) -> dict[str, dict[str, float]]:
    """Return NDCG@10 on the split's test case and seconds, without a refit and with each."""

    def fitted(on: Split, config: TrainConfig, chosen: Trained | None = None) -> Trained:
        graph = product_graph(snapshot, on.train, settings.model)
        text = encode_cached(graph.texts, settings.model.text, home / "cache")
        return train(snapshot, on, text, graph, settings.model, config, earlier=chosen)

    def neighbours(on: Split) -> AnyNeighbours | None:
        return fit_neighbours(snapshot, on.train, settings.model.neighbours, settings.model.exclude_relations)

    chosen = fitted(split, config)
    sample = validation_sample(split.validation, config)
    blend = fit_blend(chosen.model.with_neighbours(neighbours(split)), sample)
    later = replace(split, train=split.test.known, validation=split.test)
    near = neighbours(later)
    found: dict[str, dict[str, float]] = {}
    for name, (epochs, step) in {"none": (0, 0.0), **WAYS}.items():
        began = time.monotonic()
        if name == "none":
            trained = chosen
        else:
            again = config.model_copy(update={"refit_epochs": epochs, "refit_step": step})
            trained = fitted(later, again, chosen)
        seconds = time.monotonic() - began
        reached = validation_ndcg(trained.model.with_neighbours(near).with_blend(blend), split.test)
        found[name] = {"ndcg@10": round(reached, 4), "seconds": round(seconds, 1)}
        print(f"{name}: {found[name]}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
