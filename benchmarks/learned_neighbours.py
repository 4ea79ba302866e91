"""What is new to a user, ranked by learned neighbours and by each of what they read: windows of Complete Journey.

    python -m benchmarks.learned_neighbours [--windows 4] [--every 3]

Nothing later than a window's first moment is known to what ranks it: the first is the validation window of
`configs/completejourney.toml`, the others lie before it, the next `--every` weeks earlier. The test weeks are not
looked at. Prints one JSON line with the NDCG@10 of each window, newest first.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.snapshot import Histories
from model.compare.config import read_comparison
from model.compare.data import read_snapshot
from model.config import NeighbourConfig
from model.learned_neighbours import LearnedNeighbours, fit_learned_neighbours
from model.metrics import per_user
from model.popularity import DAY_MS
from model.ranker import top_k
from model.splits import Case, make_split

COMPARISON = Path("configs/compare/completejourney.toml")
CONFIG = NeighbourConfig(kind="learned", position_decay=1, half_life_days=39)
_BATCH = 256
_COME_TO_28_DAYS, _AT_ALL_4_DAYS = 2, 4  # columns of `Moment.had`

_Scores = Callable[[Histories, npt.NDArray[np.int64]], npt.NDArray[np.float32]]


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--every", type=int, default=3, help="weeks from one window to the next before it")
    options = parser.parse_args()
    comparison = read_comparison(COMPARISON)
    here = Path()
    snapshot = read_snapshot(comparison.data["completejourney"], here, here, here)
    split = comparison.protocols["temporal"]
    test_from_ms = split.test_from_ms
    assert test_from_ms is not None
    found: dict[str, list[float]] = defaultdict(list)
    for back in range(options.windows):
        print(f"window {back + 1} of {options.windows}, some minutes each", file=sys.stderr, flush=True)
        moment_ms = test_from_ms - back * options.every * 7 * DAY_MS
        asked = make_split(snapshot, split.model_copy(update={"test_from_ms": moment_ms}))
        case = next(each.validation for each in asked.questions if each.tuned_alone)
        learned = fit_learned_neighbours(snapshot, asked.train, CONFIG, (), lambda *_: None)
        for name, scores in _rankers(learned).items():
            found[name].append(round(_ndcg(scores, case), 4))
    print(json.dumps({"benchmark": "learned_neighbours", "every_weeks": options.every, "ndcg@10": found}))


def _rankers(learned: LearnedNeighbours) -> dict[str, _Scores]:
    def popular(column: int) -> _Scores:
        return lambda histories, _: np.broadcast_to(
            learned.moment.had[:, column], (len(histories), len(learned.moment.had))
        )

    def dense(scores: Callable[[Histories, npt.NDArray[np.int64]], sparse.csr_matrix]) -> _Scores:
        return lambda histories, now_ms: scores(histories, now_ms).toarray()

    return {
        "popularity, half-life 4 days": popular(_AT_ALL_4_DAYS),
        "first purchases, half-life 28 days": popular(_COME_TO_28_DAYS),
        "nearness": dense(learned.near.scores),
        "learned neighbours": dense(learned.scores),
    }


def _ndcg(scores: _Scores, case: Case) -> float:
    """Return NDCG@10 on a case that asks for what is new to its users."""
    values = []
    for at in range(0, len(case), _BATCH):
        part = case.take(np.arange(at, min(at + _BATCH, len(case))))
        ranked, _ = top_k(np.array(scores(part.histories, part.now_ms)), 10, seen=part.seen, candidates=part.candidates)
        values.append(per_user(ranked, part.truth_offsets, part.truth_product_index, (10,))["ndcg@10"])
    return float(np.concatenate(values).mean())


if __name__ == "__main__":
    main()
