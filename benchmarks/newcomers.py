"""What products without a past are given, and what that costs the others: the weights side by side, on validation data.

    python -m benchmarks.newcomers HOME [--config configs/beauty-no-also.toml] [--seed 1] [--threads 1]

HOME holds a snapshot of the data. A fifth of the products is held out from training entirely, as the protocol
cold-products of `kgrank compare` does it; one network is trained, and asked for users who went on to a product of the
validation's draw, and for those who went on to any other. For each weight of the component `newcomer`, with and without
what newcomers borrow of their like: NDCG@10 and recall@20 of both. Prints one JSON line.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kg.snapshot import Snapshot
from model.blend import NEWCOMER_GRID
from model.case import Case, Question
from model.metrics import per_user
from model.pipeline import fit_model
from model.ranker import ModelRanker, rank
from model.scorer import TrainedModel
from model.scoring import GRAPH, TEXT
from model.settings import read_run_settings
from model.splits import make_split

MOST_ASKED = 2000
DEPTH = 20


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/beauty-no-also.toml"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    settings = read_run_settings(options.config)
    folder = options.home / "snapshots"
    data = Snapshot.open(folder / (folder / "LATEST").read_text(encoding="utf-8").strip())
    own = settings.split
    config = own.model_copy(update={"protocol": "cold-products", "base": own.protocol, "repeats": False})
    split = make_split(data, config)
    train = settings.train.model_copy(update={"seed": options.seed, "threads": options.threads, "members": 1})
    model = fit_model(data, split, settings.model, train, options.home / "cache").model
    graph, text = (model.matrix[:, model.blocks[name]] for name in (GRAPH, TEXT))
    alone = TrainedModel(model.networks, graph, text, model.statistics, model.blend, model.neighbours)
    print(
        json.dumps(
            {
                "benchmark": "newcomers",
                "config": options.config.name,
                "seed": options.seed,
                "chosen": model.blend.newcomer,
                "borrowing": measured(model, split.questions),
                "alone": measured(alone, split.questions),
            }
        )
    )


def measured(model: TrainedModel, questions: Sequence[Question]) -> dict[str, dict[str, list[float]]]:
    """Return NDCG@10 and recall@20 of each question on validation data, by the weight of `newcomer`."""
    found: dict[str, dict[str, list[float]]] = {}
    for weight in NEWCOMER_GRID:
        given = model.with_blend(replace(model.blend, newcomer=weight))
        found[f"{weight:g}"] = {each.name: asked(given, each.validation) for each in questions}
        print(f"{weight:g}: {found[f'{weight:g}']}", file=sys.stderr)
    return found


def asked(model: TrainedModel, case: Case) -> list[float]:
    """Return NDCG@10 and recall@20 of at most `MOST_ASKED` users of a case."""
    case = case.take(np.linspace(0, len(case) - 1, min(len(case), MOST_ASKED)).astype(np.int64))
    ranked = rank(ModelRanker("ours", model), case, DEPTH)
    values = per_user(ranked, case.truth_offsets, case.truth_product_index, (10, DEPTH))
    return [round(float(values[name].mean()), 4) for name in ("ndcg@10", f"recall@{DEPTH}")]


if __name__ == "__main__":
    main()
