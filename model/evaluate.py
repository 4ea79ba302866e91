"""Evaluation: rankers answer a case by ranking every candidate; all of them in one run, over the same users."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from scipy import sparse

from kg.errors import ConfigError
from kg.snapshot import Snapshot
from model.artifact import ArtifactManifest
from model.baselines import BASELINES
from model.baselines.contract import FitData
from model.baselines.space import draw
from model.errors import ModelError
from model.likeness import graph_features
from model.metrics import CUTOFFS, Estimate, bootstrap, coverage, intra_list_diversity, novelty, per_user
from model.pipeline import refit_of
from model.ranker import Advance, Ranked, Ranker, rank
from model.settings import read_toml, validated
from model.splits import Case, SplitConfig

CHOSEN_BY = "ndcg@10"
"""The metric that configurations are chosen by, on validation."""

_TUNING_USERS = 20_000
"""As many as choose for our own model (`train.validation_users`)."""


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


def check_untrained(
    manifest: ArtifactManifest, snapshot: Snapshot, config: SplitConfig, *, on_validation: bool = False
) -> None:
    """Make sure that a model has not been trained on what it is about to be asked.

    Args:
        manifest: of the model.
        snapshot: what it is asked about.
        config: how that is split.
        on_validation: the validation case is asked, not the test.

    Raises:
        ModelError: it was trained on another snapshot or another split, or trained again on what is asked, so its
            training may hold the answers.
    """
    version = manifest.model_version
    # Fields that came after the artifact was written have their default.
    split = SplitConfig.model_validate(manifest.split)
    refit = refit_of(manifest.config.get("train", {}).get("refit", "none"), split.protocol)
    if refit == "all" or (refit == "known" and on_validation):
        raise ModelError(
            f"model {version} was trained again with train.refit = {refit!r}: its training holds the answers",
            "Train with train.refit = 'none' to measure on validation, or 'known' to measure on the test.",
        )
    if manifest.snapshot_hash != snapshot.content_hash:
        raise ModelError(
            f"model {version} was trained on snapshot {manifest.snapshot_hash[:12]}, not on "
            f"{snapshot.content_hash[:12]}: what it learned from may hold the answers",
            "Evaluate on the snapshot it was trained on (--snapshot), or train on this one.",
        )
    trained = split.trained_by()
    asked = config.trained_by()
    different = [name for name in asked if asked[name] != trained.get(name)]
    if different:
        name = different[0]
        raise ModelError(
            f"model {version} was trained with split.{name} = {trained.get(name)!r}, not {asked[name]!r}: "
            "its training may hold the answers",
            "Leave the split as the model has it, or train again with the other one.",
        )


def measure(
    ranked: Ranked, case: Case, features: sparse.csr_matrix, generator: np.random.Generator
) -> tuple[dict[str, Estimate], dict[str, npt.NDArray[np.float64]]]:
    """Return all metrics of a case's lists with their intervals, and of each user."""
    values = per_user(ranked, case.truth_offsets, case.truth_product_index)
    users_of_product, users = known_users(case)
    for k in CUTOFFS:
        values[f"novelty@{k}"] = novelty(ranked, users_of_product, users, k)
        values[f"diversity@{k}"] = intra_list_diversity(ranked, features, k)
    estimates = bootstrap(np.stack(list(values.values()), axis=1), generator)
    metrics = dict(zip(values, estimates, strict=True))
    for k in CUTOFFS:  # of all lists together: no interval over users
        share = coverage(ranked, case.candidates, k)
        metrics[f"coverage@{k}"] = Estimate(share, share, share)
    return metrics, values


@dataclass(frozen=True)
class Chosen:
    """What validation chose of a baseline.

    Args:
        config: the configuration.
        anew: the same, with the epochs that were best where it has some: to fit anew with (`Baseline.fit_anew`).
        ranker: what was measured; only of what is trained by steps: what is not is soon made again, and may be large.
    """

    config: BaseModel
    anew: BaseModel
    ranker: Ranker | None


def choose_baseline(
    name: str,
    data: FitData,
    generator: np.random.Generator,
    advance: Advance = lambda count: None,
    trials: int | None = None,
    settings: BaseModel | None = None,
) -> Chosen:
    """Choose a baseline's configuration on `data.validation`, fitted on what that knows.

    Args:
        name: of `BASELINES`.
        data: what to learn from; `known` is replaced by what validation knows.
        generator: draws the users to tune on, where there are many.
        advance: hears how many users were ranked.
        trials: configurations to try, drawn from the baseline's space; by default its grid is tried.
        settings: the one configuration to take, where it was searched for already.

    Raises:
        ModelError: there is no such baseline, or it can't be fitted on this.
        MissingExtraError: a package that it needs is not installed.
    """
    if name not in BASELINES:
        raise ModelError(f"there is no baseline {name!r}", f"Choose from: {', '.join(BASELINES)}.")
    baseline = BASELINES[name]
    baseline.check_needs(name)
    asked = data.validation
    if len(asked) > _TUNING_USERS:
        asked = asked.take(np.sort(generator.choice(len(asked), _TUNING_USERS, replace=False)))
    grid: Sequence[BaseModel]
    if settings is not None:
        grid = [settings]
    else:
        grid = baseline.grid if trials is None else draw(baseline.grid[0], baseline.space, trials, data.seed)
    best, chosen = -1.0, Chosen(grid[0], grid[0], None)
    tuning = data.at(asked.known)
    for config in grid:
        ranker, anew = baseline.fit_stopped(tuning, config)
        ranked = rank(ranker, asked, 10, advance)
        reached = per_user(ranked, asked.truth_offsets, asked.truth_product_index, (10,))[CHOSEN_BY].mean()
        if reached > best:
            best, chosen = float(reached), Chosen(config, anew, ranker if baseline.by_epochs else None)
        del ranker  # its matrix may be large, and the next one is made beside it
    return chosen


def fit_baseline(
    name: str,
    data: FitData,
    case: Case,
    generator: np.random.Generator,
    advance: Advance = lambda count: None,
    settings: BaseModel | None = None,
) -> tuple[Ranker, dict[str, Any]]:
    """Choose a baseline's configuration on `data.validation`, and fit it anew on what `case` knows.

    Args:
        name: of `BASELINES`.
        data: what to learn from; `known` is replaced by what each case knows.
        case: what is to be answered; its truth is not looked at.
        generator: draws the users to tune on, where there are many.
        advance: hears how many users were ranked for tuning.
        settings: the one configuration to take, where it was searched for already.

    Raises:
        ModelError: there is no such baseline, or it can't be fitted on this.
        MissingExtraError: a package that it needs is not installed.
    """
    chosen = choose_baseline(name, data, generator, advance, settings=settings)
    return BASELINES[name].fit_anew(data.at(case.known), chosen.anew), chosen.config.model_dump(mode="json")


def tuned_settings(files: Sequence[Path]) -> dict[str, BaseModel]:
    """Return the settings of baselines that files of `kgrank tune --model BASELINE` have, by the baseline's name.

    Raises:
        ConfigError: a file can't be read, has no baseline's settings, or one that is out of range.
    """
    found: dict[str, BaseModel] = {}
    for file in files:
        for name, values in read_toml(file).items():
            if name not in BASELINES or not isinstance(values, dict):
                raise ConfigError(
                    f"{file}: {name!r} is no baseline", f"A table of one of these is read: {', '.join(BASELINES)}."
                )
            found[name] = validated(type(BASELINES[name].grid[0]), values, file)
    return found


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


def known_users(case: Case) -> tuple[npt.NDArray[np.int64], int]:
    """Return how many users had each product `[P]`, and how many had any: of those held out nothing is known."""
    known, product_count = case.known, len(case.candidates)
    pairs = np.unique(known.users_of_rows() * product_count + known.product_index)
    users_of_product = np.bincount(pairs % product_count, minlength=product_count)
    return users_of_product, int(np.count_nonzero(np.diff(known.offsets)))
