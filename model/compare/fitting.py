"""One cell computed: fit a model, rank every question's users on validation and on test data.

The right answers of the test play no part: a baseline learns from what its question knows, and its configuration, as
our epochs and weights, is chosen on validation data.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from kg.snapshot import Histories, Snapshot
from model.baselines import BASELINES, FitData, fit_data
from model.case import Case, Question, Split
from model.checkpoint import EpochRecord
from model.compare.cells import DEPTH, Lists, Outcome, Stage
from model.compare.noise import NoiseConfig, noisy_question, noisy_snapshot, noisy_training
from model.compare.variants import Variant
from model.errors import ModelError
from model.evaluate import choose_baseline
from model.pipeline import Listener, fit_model, refit_of
from model.ranker import ModelRanker, Ranker, rank
from model.refresh import extend
from model.settings import RunSettings
from model.train import Trained

STAGES: tuple[Stage, ...] = ("validation", "test")


@dataclass(frozen=True)
class Workplace:
    """Where a comparison computes.

    Args:
        cache_folder: of text features.
        checkpoint_folder: of the training under way; it is removed with its end.
        threads: of baselines; 0: the library's choice.
        on_epoch: hears of every epoch.
    """

    cache_folder: Path
    checkpoint_folder: Path
    threads: int = 0
    on_epoch: Callable[[EpochRecord], None] = lambda record: None


def fit_ours(
    snapshot: Snapshot,
    split: Split,
    variant: Variant,
    seed: int,
    asked: Mapping[str, NoiseConfig | None],
    place: Workplace,
) -> Iterator[tuple[str, Outcome]]:
    """Train once, and yield what comes of it under each noise that the finished model is asked with.

    Args:
        snapshot: the data set as it is.
        split: of it.
        variant: what to train.
        seed: of the training.
        asked: noise by key.
        place: where to compute.
    """
    began = time.monotonic()
    learned = variant.snapshot(snapshot)
    learned_split = noisy_training(split, variant.learned_noise) if variant.learned_noise else split
    settings = variant.settings.with_overrides({"train.seed": seed})
    if refit_of(settings.train.refit, split.config.protocol) == "all":
        raise ModelError(
            f"model {variant.name} has train.refit = 'all': it would learn the answers",
            "Set train.refit to known or none.",
        )
    chosen: list[Trained] = []
    trained = fit_model(
        learned,
        learned_split,
        settings.model,
        settings.train,
        place.cache_folder,
        finetune_config=settings.finetune,
        checkpoint_folder=place.checkpoint_folder,
        resume=True,
        listener=Listener(on_epoch=place.on_epoch, on_chosen=chosen.append),
    )
    # A model that is trained again for the test knows the answers of validation: the one before it answers that.
    again = trained.model is not chosen[0].model
    learned_from = {
        "validation": learned_split.train,
        "test": learned_split.test.known if again else learned_split.train,
    }
    seconds = time.monotonic() - began
    for key, noise in asked.items():
        began = time.monotonic()
        rankers: dict[Stage, Ranker] = {
            "validation": _ranker(chosen[0], learned, learned_from["validation"], split.validation, noise, place),
            "test": _ranker(trained, learned, learned_from["test"], split.test, noise, place),
        }
        questions = [noisy_question(question, noise) if noise else question for question in learned_split.questions]
        lists = _lists(questions, lambda index, stage, rankers=rankers: rankers[stage])  # type: ignore[misc]  # per noise
        yield (
            key,
            Outcome(
                lists=lists,
                seconds=seconds + time.monotonic() - began,
                chosen={"best_epoch": trained.best_epoch},
                records=tuple(asdict(record) for record in trained.records),
                validation_ndcg=trained.validation_ndcg,
                created_at=_now(),
            ),
        )
    shutil.rmtree(place.checkpoint_folder, ignore_errors=True)


def fit_peer(
    snapshot: Snapshot,
    split: Split,
    variant: Variant,
    seed: int,
    chosen: Mapping[str, Any] | None,
    place: Workplace,
) -> Outcome:
    """Tune a baseline on validation, fit it, and rank.

    Args:
        snapshot: the data set as it is.
        split: of it.
        variant: which baseline, on which facts, with what noise.
        seed: of all that is random.
        chosen: configurations that were chosen before, by question; tuned here when None.
        place: where to compute.
    """
    assert variant.baseline is not None
    began = time.monotonic()
    learned = variant.snapshot(snapshot)
    split = noisy_training(split, variant.learned_noise) if variant.learned_noise else split
    settings: RunSettings = variant.settings
    data = fit_data(
        learned, split.train, split.validation, settings.model, place.cache_folder, seed=seed, threads=place.threads
    )
    tuner = _Tuner(variant.baseline, data, variant.trials, dict(chosen) if chosen is not None else None)
    main: dict[Stage, Ranker] = {}
    rankers: dict[tuple[int, Stage], Ranker] = {}
    for index, question in enumerate(split.questions):
        if question.tuned_alone:
            fitted = tuner.fit(question.name, question.validation, question)
        else:
            fitted = main = main or tuner.fit("", split.validation, question)
        for stage in STAGES:
            rankers[index, stage] = fitted[stage]
    noise = variant.asked_noise
    questions = [noisy_question(question, noise) if noise else question for question in split.questions]
    lists = _lists(questions, lambda index, stage: rankers[index, stage])
    return Outcome(lists, time.monotonic() - began, tuner.chosen or {}, tuner.tried, tuner.records, created_at=_now())


class _Tuner:
    """Fits one baseline for several questions, and remembers what was chosen for each."""

    def __init__(self, name: str, data: FitData, trials: int | None, chosen: dict[str, Any] | None) -> None:
        self._name, self._data, self._trials = name, data, trials
        self._tunes = chosen is None
        self.chosen: dict[str, Any] = chosen or {}
        baseline = BASELINES[name]
        self.tried = len(baseline.grid) if trials is None else (trials if baseline.space else 1)
        self.records: tuple[dict[str, float], ...] = ()
        """Of every epoch of the first ranker that was fitted, where it was trained by steps."""

    def fit(self, key: str, tuned_on: Case, question: Question) -> dict[Stage, Ranker]:
        """Return the ranker that answers a question's validation case, and the one that answers its test case."""
        baseline = BASELINES[self._name]
        curves: dict[str, list[EpochRecord]] = {}

        def hear(config: BaseModel, record: EpochRecord) -> None:
            curves.setdefault(config.model_dump_json(), []).append(record)

        data = replace(self._data, validation=tuned_on, on_epoch=hear)
        if self._tunes:
            chosen = choose_baseline(self._name, data, np.random.default_rng(data.seed), trials=self._trials)
            self.chosen[key] = chosen.config.model_dump(mode="json")
            validated, anew = chosen.ranker, chosen.anew
        else:
            baseline.check_needs(self._name)
            validated, anew = None, None
        config = type(baseline.grid[0]).model_validate(self.chosen[key])
        if validated is None:
            known = tuned_on.known if baseline.by_epochs else question.validation.known
            validated, anew = baseline.fit_stopped(data.at(known), config)
        self.records = self.records or tuple(asdict(record) for record in curves.get(config.model_dump_json(), ()))
        return {"validation": validated, "test": baseline.fit_anew(data.at(question.test.known), anew)}


def _ranker(
    trained: Trained, snapshot: Snapshot, histories: Histories, case: Case, noise: NoiseConfig | None, place: Workplace
) -> ModelRanker:
    """Return the finished model, over a catalogue and facts with noise where there is any."""
    if noise is None or (changed := noisy_snapshot(snapshot, noise)) is snapshot:
        return ModelRanker("ours", trained.model)
    if trained.graph.product_count != len(trained.model.matrix):
        raise ModelError(
            "noise in titles or facts that a finished model is asked with needs all products in its training",
            "Keep the variant out of the protocol cold-products: give it `protocols`.",
        )
    now_ms = int(case.now_ms.max())
    model = extend(trained.model, trained.kernel, trained.graph.keys, changed, histories, now_ms, place.cache_folder)
    return ModelRanker("ours", model)


def _lists(questions: list[Question], ranker: Callable[[int, Stage], Ranker]) -> Lists:
    return {
        (index, stage): rank(
            ranker(index, stage), question.validation if stage == "validation" else question.test, DEPTH
        )
        for index, question in enumerate(questions)
        for stage in STAGES
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
