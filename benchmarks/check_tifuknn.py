"""TIFU-KNN beside Cornac's, on the same baskets of the same test case: the figures of docs/baselines.md.

    pip install --no-deps cornac==3.0.1 powerlaw==2.0.0 mpmath==1.4.1
    python -m benchmarks.check_tifuknn HOME --config configs/completejourney.toml

HOME holds a snapshot of the data. Cornac's is asked as published, and with two things mended: the mean is over
neighbours, not over neighbours and products at once, and a user is no neighbour of theirs. Both with the paper's
parameters, and with one group and no decay, where its reading of the paper and ours mean the same. It takes some 20
minutes: Cornac looks at every user anew for every answer. Prints one JSON line.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories, Snapshot
from model.baselines import BASELINES, fit_data
from model.case import Case
from model.metrics import per_user
from model.ranker import rank
from model.settings import read_run_settings
from model.splits import Split, make_split

try:
    from cornac.models import TIFUKNN
    from scipy.spatial import KDTree
except ImportError as error:
    raise SystemExit(f"{error}: pip install --no-deps cornac==3.0.1 powerlaw==2.0.0 mpmath==1.4.1") from error

LONGEST = 20
SHOWN = ("ndcg@10", "hr@10", "recall@20")
SAME = {
    "paper": ({}, {}),
    "one group, no decay": (
        {"group_size": 10_000, "within_decay": 1, "group_decay": 1},
        {"n_groups": 1, "within_decay_rate": 1, "group_decay_rate": 1},
    ),
}
"""Parameters of ours and of Cornac's that are compared, beside the defaults of both, which are the paper's."""

Baskets = list[list[int]]
Lists = npt.NDArray[np.int32]


class Published(TIFUKNN):  # type: ignore[misc]  # Cornac has no types
    """Cornac's, over given products instead of those of a data set of its own."""

    total_items = 0


class Mended(Published):
    """With the mean over neighbours only, and nobody a neighbour of their own."""

    def score(self, user_idx: int, history_baskets: Baskets) -> npt.NDArray[np.float64]:
        """Return a score for every product `[P]`."""
        vector = self._compute_user_vector(history_baskets)
        near = self.tree.query(vector, k=self.n_neighbors + 1)[1][1:]
        mixed: npt.NDArray[np.float64] = self.alpha * vector + (1 - self.alpha) * self.user_vectors[near].mean(0)
        return mixed


def main() -> None:
    """Compare, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="home folder with snapshots/")
    parser.add_argument("--config", type=Path, default=Path("configs/completejourney.toml"), help="its split is used")
    parser.add_argument("--only", choices=list(SAME), action="append", help="these parameters; by default all")
    options = parser.parse_args()
    settings = read_run_settings(options.config)
    folder = options.home / "snapshots"
    snapshot = Snapshot.open(folder / (folder / "LATEST").read_text(encoding="utf-8").strip())
    split = make_split(snapshot, settings.split)
    data = fit_data(
        snapshot, split.validation.known, split.validation, settings.model, options.home / "cache", seed=7, threads=1
    )
    baseline = BASELINES["tifuknn"]
    default = baseline.grid[0]
    report = {}
    for name in options.only or SAME:
        own, theirs = SAME[name]
        config = type(default).model_validate(default.model_dump() | own)
        ours = rank(baseline.fit_anew(data.at(split.test.known), config), split.test, LONGEST)
        report[name] = {"ours": _figures(ours, split.test)}
        for kind in (Published, Mended):
            print(f"{name}: {kind.__name__}", file=sys.stderr)
            lists = _ranked(kind, theirs, split, len(snapshot.products))
            same = [len(np.intersect1d(one[:10], other[:10])) for one, other in zip(ours, lists, strict=True)]
            report[name][f"Cornac's, {kind.__name__.lower()}"] = _figures(lists, split.test) | {
                "same@10": round(float(np.mean(same)) / 10, 4)
            }
    print(json.dumps({"benchmark": "check_tifuknn", "config": options.config.name, **report}))


def _ranked(kind: type[Published], parameters: dict[str, float], split: Split, product_count: int) -> Lists:
    """Return the best products of each user of the test case `[B, LONGEST]`, by Cornac."""
    case = split.test
    baskets = [_baskets(case.known, user) for user in range(len(case.known))]
    model = kind(**parameters)
    model.total_items = product_count
    vectors = [model._compute_user_vector(each) for each in baskets if each]  # without data sets of its own
    model.user_vectors = np.asarray(vectors, np.float32)
    model.tree = KDTree(model.user_vectors)
    lists = np.empty((len(case), LONGEST), np.int32)
    for row, user in enumerate(case.user_index.tolist()):
        score = np.where(case.candidates, model.score(0, baskets[user]), -np.inf)
        lists[row] = np.argsort(-score, kind="stable")[:LONGEST]
        if row % 100 == 0:
            print(f"{row} of {len(case)} users", file=sys.stderr)
    return lists


def _baskets(known: Histories, user: int) -> Baskets:
    """Return what a user bought at each moment, oldest first."""
    rows = known.rows(user)
    products, at_ms = known.product_index[rows], known.at_ms[rows]
    parts = np.split(products, np.flatnonzero(np.diff(at_ms)) + 1)
    return [np.unique(each).tolist() for each in parts if len(each)]


def _figures(lists: Lists, case: Case) -> dict[str, float]:
    values = per_user(lists, case.truth_offsets, case.truth_product_index)
    return {name: round(float(np.mean(values[name])), 4) for name in SHOWN}


if __name__ == "__main__":
    main()
