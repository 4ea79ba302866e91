"""How many reasons results have, and how often the heaviest path is also what the score needs most.

    python -m benchmarks.reasons HOME [--users 200] [--results 3]

HOME holds a trained model and its snapshot. Users are drawn evenly; their best products are explained in this process,
as `Explain` does: the peer of the model's own answer is the order of the paths' weights. Prints one JSON line.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from kg.paths import Reasoner
from kg.snapshot import Snapshot
from model.artifact import load_artifact
from model.counterfactual import score_drops, strengths
from model.scorer import TrainedModel
from model.scoring import full_scores
from server.cli.stored import newest_artifact, open_snapshot
from server.config import Settings
from server.contract import MOST_REASONS
from server.reasons import WEIGHED_EACH

SEED = 3


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--results", type=int, default=3, help="of each user")
    options = parser.parse_args()
    settings = Settings(home=options.home)
    snapshot, artifact = open_snapshot(settings, None), load_artifact(newest_artifact(settings, None))
    reasoner = Reasoner(snapshot, artifact.relation_weights)
    told, heaviest = measured(snapshot, artifact.scorer, reasoner, options.users, options.results)
    print(
        json.dumps(
            {
                "benchmark": "reasons",
                "results": sum(told.values()),
                "share_with_reasons": {
                    count: round(told[count] / sum(told.values()), 3) for count in range(MOST_REASONS, -1, -1)
                },
                "results_with_a_choice": len(heaviest),
                "heaviest_is_needed_most": round(float(np.mean(heaviest)), 3),
                "model_version": artifact.manifest.model_version,
                "products": len(snapshot.products),
                "users": len(snapshot.users),
            }
        )
    )


@torch.inference_mode()
def measured(
    snapshot: Snapshot, scorer: TrainedModel, reasoner: Reasoner, users: int, results: int
) -> tuple[Counter[int], list[bool]]:
    """Return how many results have how many reasons, and of each with a choice whether the heaviest is needed most."""
    told: Counter[int] = Counter()
    heaviest: list[bool] = []
    for user in np.random.default_rng(SEED).choice(len(snapshot.users), users, replace=False).tolist():
        history = snapshot.histories.take(np.array([user]))
        scores = full_scores(scorer, scorer.encode_users(history, np.array([snapshot.as_of_ms])))[0]
        scores[np.concatenate([history.product_index, snapshot.products.taken_out])] = -torch.inf
        around = reasoner.surroundings(history.product_index, history.type, user)
        for product in scores.topk(results).indices.tolist():
            paths = reasoner.paths(around, product)
            starts = list(dict.fromkeys(path.start for path in paths))[:WEIGHED_EACH]
            paths = [path for path in paths if path.start in starts]
            drops = score_drops(scorer, history, snapshot.as_of_ms, starts, np.array([product]))
            strength = dict(zip(starts, strengths(drops)[:, 0].tolist(), strict=True)) if starts else {}
            told[len(reasoner.reasons(around, product, MOST_REASONS, paths=paths, strength=strength))] += 1
            if len(starts) > 1:
                heaviest.append(bool(drops[0, 0] == drops[:, 0].max()))
    return told, heaviest


if __name__ == "__main__":
    main()
