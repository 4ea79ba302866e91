"""One baseline with one configuration on a test case: the figures of docs/baselines.md.

    python -m benchmarks.check_baseline HOME ease --set penalty=100 --set position_decay=0.7

HOME holds a snapshot (`kgrank snapshot`). The configuration is given, not tuned: published figures are of published
settings. `--random-split` is RecBole's usual one: each user's interactions in random order, 80 % to train on, 10 % to
validate, 10 % to test; all is fitted on the 80 %. Otherwise what validation has stopped is fitted anew on all that the
test case knows. Prints one JSON line.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from kg.snapshot import Histories, Snapshot
from model.baselines import BASELINES, fit_data
from model.case import Case
from model.config import ModelConfig
from model.metrics import per_user
from model.ranker import rank
from model.splits import SplitConfig, make_split

SHOWN = ("ndcg@10", "hr@10", "recall@10", "precision@10", "recall_capped@10", "recall@20", "ndcg@20")


def value_of(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def fields(pairs: list[str]) -> dict[str, object]:
    return {name: value_of(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def random_split(histories: Histories, product_count: int, generator: np.random.Generator) -> tuple[Case, Case]:
    """Return a validation and a test case; an interaction's place in the random order is the time it happens at."""
    users = histories.users_of_rows()
    order = np.lexsort((generator.random(len(users)), users))
    place = np.arange(len(users)) - histories.offsets[users]
    shuffled = Histories(
        histories.offsets, histories.product_index[order], histories.type[order], place, histories.value[order]
    )
    size = np.diff(histories.offsets)[users]
    share = (place + 0.5) / size

    def case(name: str, start: float, stop: float) -> Case:
        asked = (share >= start) & (share < stop)
        truth = np.unique(users[asked] * product_count + shuffled.product_index[asked])
        counts = np.bincount(truth // product_count, minlength=len(histories))
        whole = Case(
            name=name,
            known=shuffled.where(share < start),
            user_index=np.arange(len(histories)),
            truth_offsets=np.concatenate([[0], np.cumsum(counts)]),
            truth_product_index=(truth % product_count).astype(np.int32),
            now_ms=np.full(len(histories), int(size.max())),
            exclude_seen=True,
            candidates=np.ones(product_count, np.bool_),
        )
        return whole.take(np.flatnonzero(counts))

    return case("random validation", 0.8, 0.9), case("random test", 0.9, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="home folder with snapshots/")
    parser.add_argument("baseline", choices=list(BASELINES))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the configuration")
    parser.add_argument("--split", action="append", default=[], metavar="FIELD=VALUE", help="of the split")
    parser.add_argument("--random-split", action="store_true", help="80 / 10 / 10 %% of each user, in random order")
    parser.add_argument("--validation", action="store_true", help="answer the validation case, leave the test alone")
    parser.add_argument("--new-only", action="store_true", help="only products that are new to the user")
    parser.add_argument("--exclude-relation", action="append", default=[], help="facts that must not be seen")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    snapshots = options.home / "snapshots"
    snapshot = Snapshot.open(snapshots / (snapshots / "LATEST").read_text().strip())
    if options.random_split:
        tuning, case = random_split(snapshot.histories, len(snapshot.products), np.random.default_rng(options.seed))
    else:
        split = make_split(snapshot, SplitConfig.model_validate(fields(options.split)))
        tuning, case = split.validation, split.test
    train = tuning.known
    if options.validation:
        case = tuning
    if options.new_only:
        tuning, case = tuning.new_only(), case.new_only()
    baseline = BASELINES[options.baseline]
    known = train if options.random_split else case.known
    seen = ModelConfig(exclude_relations=tuple(options.exclude_relation))
    data = fit_data(snapshot, train, tuning, seen, options.home / "cache", seed=options.seed, threads=options.threads)
    default = baseline.grid[0]
    config = type(default).model_validate(default.model_dump() | fields(options.set))

    began = time.process_time()  # of the processor: a machine that others use does not blur it
    if known is train:
        ranker, _ = baseline.fit_stopped(data, config)
    else:
        _, anew = baseline.fit_stopped(data, config) if baseline.by_epochs else (None, config)
        ranker = baseline.fit_anew(data.at(known), anew)
    fitted = time.process_time()
    ranked = rank(ranker, case, 20)
    done = time.process_time()
    values = per_user(ranked, case.truth_offsets, case.truth_product_index)
    print(
        json.dumps(
            {
                "baseline": options.baseline,
                "config": config.model_dump(mode="json"),
                "case": case.name,
                "users": len(case),
                **{name: round(float(np.mean(values[name])), 5) for name in SHOWN},
                "fit_cpu_s": round(fitted - began, 1),
                "rank_cpu_s": round(done - fitted, 1),
                "threads": options.threads,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
