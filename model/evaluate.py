"""Evaluation: rankers answer a case by ranking every candidate; all of them in one run, over the same users."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.snapshot import Histories, Snapshot
from model.artifact import ArtifactManifest
from model.baselines import BASELINES
from model.errors import ModelError
from model.likeness import graph_features
from model.metrics import CUTOFFS, Estimate, bootstrap, coverage, intra_list_diversity, novelty, per_user
from model.ranker import Ranker, top_k
from model.splits import Case, SplitConfig

CHOSEN_BY = "ndcg@10"
"""The metric that configurations are chosen by, on validation."""

_BLOCK_BYTES = 64 * 2**20
_TUNING_USERS = 2000

Ranked = npt.NDArray[np.int32]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Result:
    """What one ranker reached in one case.

    Args:
        ranker: its name.
        config: the configuration that validation chose; empty for an artifact, whose manifest has it.
        seconds: spent on ranking.
        metrics: `ndcg@10` and so on, each with its interval.
        values: the same, of every user `[B]`, where the metric has one.
    """

    ranker: str
    config: Mapping[str, Any]
    seconds: float
    metrics: Mapping[str, Estimate]
    values: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)


@dataclass(frozen=True)
class CaseReport:
    """All rankers in one case, in the order they were given."""

    case: str
    users: int
    candidates: int
    exclude_seen: bool
    results: Sequence[Result]


def check_untrained(manifest: ArtifactManifest, snapshot: Snapshot, config: SplitConfig) -> None:
    """Make sure that a model has not been trained on what it is about to be asked.

    Raises:
        ModelError: it was trained on another snapshot or another split, so its training may hold the answers.
    """
    version = manifest.model_version
    if manifest.snapshot_hash != snapshot.content_hash:
        raise ModelError(
            f"model {version} was trained on snapshot {manifest.snapshot_hash[:12]}, not on "
            f"{snapshot.content_hash[:12]}: what it learned from may hold the answers",
            "Evaluate on the snapshot it was trained on (--snapshot), or train on this one.",
        )
    # Who may be asked for what does not change what was trained on.
    free = {"repeats", "min_product_interactions"}
    trained, asked = manifest.split, config.model_dump(mode="json")
    different = sorted(name for name in asked if name not in free and asked[name] != trained.get(name))
    if different:
        name = different[0]
        raise ModelError(
            f"model {version} was trained with split.{name} = {trained.get(name)!r}, not {asked[name]!r}: "
            "its training may hold the answers",
            "Leave the split as the model has it, or train again with the other one.",
        )


def rank(ranker: Ranker, case: Case, k: int, advance: Advance = lambda count: None) -> Ranked:
    """Return every user's first k products `[B, k]`, all candidates ranked, in blocks of bounded memory."""
    block = max(1, _BLOCK_BYTES // (4 * len(case.candidates)))
    lists = []
    for start in range(0, len(case), block):
        part = case.take(np.arange(start, min(start + block, len(case))))
        scores = ranker.scores(part.histories, part.now_ms)
        seen = part.histories if part.exclude_seen else None
        lists.append(top_k(scores, k, seen=seen, candidates=part.candidates)[0])
        advance(len(part))
    return np.concatenate(lists)


def measure(
    ranked: Ranked, case: Case, features: sparse.csr_matrix, generator: np.random.Generator
) -> tuple[dict[str, Estimate], dict[str, npt.NDArray[np.float64]]]:
    """Return all metrics of a case's lists with their intervals, and of each user."""
    product_count = len(case.candidates)
    values = per_user(ranked, case.truth_offsets, case.truth_product_index)
    users_of_product = _users_of_product(case.known, product_count)
    for k in CUTOFFS:
        values[f"novelty@{k}"] = novelty(ranked, users_of_product, len(case.known), k)
        values[f"diversity@{k}"] = intra_list_diversity(ranked, features, k)
    estimates = bootstrap(np.stack(list(values.values()), axis=1), generator)
    metrics = dict(zip(values, estimates, strict=True))
    for k in CUTOFFS:  # of all lists together: no interval over users
        share = coverage(ranked, case.candidates, k)
        metrics[f"coverage@{k}"] = Estimate(share, share, share)
    return metrics, values


def fit_baseline(
    name: str, validation: Case, case: Case, generator: np.random.Generator, advance: Advance = lambda count: None
) -> tuple[Ranker, dict[str, Any]]:
    """Choose a baseline's configuration on a validation case, and fit it on what `case` knows.

    Args:
        name: of `BASELINES`.
        validation: the same question as `case`, asked earlier.
        case: what is to be answered.
        generator: draws the users to tune on, where there are many.
        advance: hears how many users were ranked for tuning.

    Raises:
        ModelError: there is no such baseline.
    """
    if name not in BASELINES:
        raise ModelError(f"there is no baseline {name!r}", f"Choose from: {', '.join(BASELINES)}.")
    baseline = BASELINES[name]
    product_count = len(case.candidates)
    if len(validation) > _TUNING_USERS:
        validation = validation.take(np.sort(generator.choice(len(validation), _TUNING_USERS, replace=False)))
    reached = []
    for config in baseline.grid:
        ranked = rank(baseline.fit(validation.known, product_count, config), validation, 10, advance)
        values = per_user(ranked, validation.truth_offsets, validation.truth_product_index, (10,))
        reached.append(float(values[CHOSEN_BY].mean()))
    chosen = baseline.grid[int(np.argmax(reached))]
    return baseline.fit(case.known, product_count, chosen), chosen.model_dump(mode="json")


def evaluate(
    snapshot: Snapshot,
    case: Case,
    rankers: Sequence[tuple[Ranker, Mapping[str, Any]]],
    seed: int,
    advance: Advance = lambda count: None,
) -> CaseReport:
    """Let rankers answer a case.

    Args:
        snapshot: where the products' likeness comes from.
        case: the question.
        rankers: each with its configuration.
        seed: of the bootstrap: the same draws of users for every ranker.
        advance: hears how many users were ranked.
    """
    features = graph_features(snapshot)
    results = []
    for ranker, config in rankers:
        began = time.monotonic()
        ranked = rank(ranker, case, max(CUTOFFS), advance)
        seconds = time.monotonic() - began
        metrics, values = measure(ranked, case, features, np.random.default_rng(seed))
        results.append(Result(ranker.name, config, seconds, metrics, values))
    return CaseReport(case.name, len(case), int(case.candidates.sum()), case.exclude_seen, results)


def difference(one: Result, other: Result, metric: str, seed: int) -> Estimate:
    """Return how much better `one` is than `other`, with a paired bootstrap interval over the same users."""
    apart = (one.values[metric] - other.values[metric])[:, None]
    return bootstrap(apart, np.random.default_rng(seed))[0]


def _users_of_product(known: Histories, product_count: int) -> npt.NDArray[np.int64]:
    pairs = np.unique(known.users_of_rows() * product_count + known.product_index)
    return np.bincount(pairs % product_count, minlength=product_count)
