"""From rankings to a report: one document of plain values, which JSON, tables and plots are made of.

    {title, created_at, stage, seeds, metric, comparisons, tuning, skipped, test, answers, tables: [
        {data, protocol, question, users, candidates, models: [
            {name, title, group, seeds, tried, config, seconds, metrics: {name: {mean, low, high, seed_sd}},
             lead: {mean, low, high, p, p_holm}, curves: [[epoch, ndcg], ...]}],
         oracle: {mean, low, high},
         slices: {history, popularity, age}}], goals: [...]}

A user's value is the mean over the seeds; intervals and differences are over users. How far the seeds lie apart stands
beside it, as a standard deviation. The oracle is what choosing for every user the one of the models that stand beside
each other whose list turns out best would reach: how much they know that the best of them does not. `answers` are
digests of the test data of the questions in the tables, whichever stage they are of.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from model.case import Case
from model.cold_splits import WHOLE
from model.compare.cells import Outcome, Stage
from model.compare.config import METRICS, MODELS, CompareConfig
from model.compare.goals import Figures, judged
from model.compare.sections import Entry, Section, Skipped
from model.compare.slices import Slice, by_age, by_history, by_popularity, found_pairs
from model.compare.statistics import Sample, differences, estimates, resampled_means
from model.compare.touched import answers_digest
from model.evaluate import known_users
from model.likeness import graph_features
from model.metrics import coverage, intra_list_diversity, novelty, per_user

Floats = npt.NDArray[np.float64]

_CUTOFF = 10
_PAIRS_CUTOFF = 20
_PACKAGES = ("kgrank", "torch", "numpy", "scipy")


def build(config: CompareConfig, parts: Iterable[Section | Skipped], stage: Stage, seed: int = 7) -> dict[str, Any]:
    """Return the document of a comparison.

    Args:
        config: the comparison.
        parts: what `run` yields.
        stage: which right answers to compare with.
        seed: of the bootstrap.
    """
    tables: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    tuning: list[dict[str, Any]] = []
    missing: list[tuple[str, str, str]] = []
    cells: list[str] = []
    figures: Figures = {}
    data: dict[str, dict[str, Any]] = {}
    asked: set[str] = set()
    for part in parts:
        if isinstance(part, Skipped):
            skipped.append(asdict(part))
            continue
        skipped += [asdict(option) for option in part.failed]
        for entry in part.entries:
            name = f"{part.data}/{part.protocol}/{entry.variant.name}"
            if entry.problem or not entry.cells:
                skipped.append({"what": name, "why": entry.problem or "not computed yet"})
                if entry.variant.baseline:
                    missing.append((part.data, part.protocol, entry.variant.title))
                continue
            cells += [cell.key for cell, _ in entry.cells]
            tuning.append(
                {"model": name, "tried": entry.tried, "tried_before": entry.variant.tried_before}
                | {"chosen": dict(entry.variant.chosen or {}) | entry.cells[0][1].chosen}
            )
        for variant in part.left_out:
            skipped.append({"what": f"{part.data}/{part.protocol}/{variant.name}", "why": "not asked for"})
            if variant.baseline:
                missing.append((part.data, part.protocol, variant.title))
        made = _tables(config, part, stage, seed, figures)
        if made:
            data[part.data] = {"title": part.title, "hash": part.snapshot.content_hash, "counts": part.snapshot.counts}
            asked |= {answers_digest(question.test) for question in part.split.questions if len(question.test)}
        tables += made
    return {
        "title": config.title,
        "name": config.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "stage": stage,
        "seeds": list(config.seeds),
        "metric": config.metric,
        "reference": config.reference,
        "resamples": config.resamples,
        "comparisons": sum("lead" in model for table in tables for model in table["models"]),
        "data": data,
        "answers": sorted(asked),
        "tables": tables,
        "goals": judged(config, tables, figures, missing, seed),
        "tuning": tuning,
        "skipped": skipped,
        "cells": cells,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def _tables(config: CompareConfig, section: Section, stage: Stage, seed: int, figures: Figures) -> list[dict[str, Any]]:
    """Return a table for each question of a section; put what its goals are judged by into `figures`."""
    entries = [entry for entry in section.entries if entry.cells]
    if not entries:
        return []
    features = graph_features(section.snapshot)
    names = [question.name for question in section.split.questions]
    here = (section.data, section.protocol)
    wanted = {goal.metric for goal in config.goals if (goal.data, goal.protocol) == here}.intersection(METRICS)
    sliced = names.index(WHOLE) if WHOLE in names else 0
    tables = []
    for index, question in enumerate(section.split.questions):
        case = question.validation if stage == "validation" else question.test
        if not len(case):
            continue
        models, oracle, whole = _models(config, entries, index, stage, case, features, seed)
        for metric in wanted:
            for model, values in zip(models, whole[:, METRICS.index(metric) :: len(METRICS)].T, strict=True):
                figures[(*here, question.name, model["name"], metric)] = Sample(case.user_index, values.copy())
        table = {
            "data": section.data,
            "title": section.title,
            "protocol": section.protocol,
            "question": question.name,
            "users": len(np.unique(case.user_index)),
            "answers": len(case.truth_product_index),
            "candidates": int(case.candidates.sum()),
            "models": models,
            "oracle": oracle,
        }
        if index == sliced:
            table["slices"] = _slices(config, entries, index, stage, case)
        tables.append(table)
    return tables


def _models(
    config: CompareConfig,
    entries: Sequence[Entry],
    index: int,
    stage: Stage,
    case: Case,
    features: sparse.csr_matrix,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, Floats]:
    """Return what a table says of each model, of the oracle, None where nothing stands beside another, and the values.

    The values are those of every user, `[B, models * METRICS]`.
    """
    users_of_product, users = known_users(case)
    per_model: list[Floats] = []
    models: list[dict[str, Any]] = []
    for entry in entries:
        seeds, covered = [], []
        for _, outcome in entry.cells:
            ranked = outcome.lists[index, stage]
            values = per_user(ranked, case.truth_offsets, case.truth_product_index)
            values[f"novelty@{_CUTOFF}"] = novelty(ranked, users_of_product, users, _CUTOFF)
            values[f"diversity@{_CUTOFF}"] = intra_list_diversity(ranked, features, _CUTOFF)
            seeds.append(np.stack([values[name] for name in METRICS], axis=1))
            covered.append(coverage(ranked, case.candidates, _CUTOFF))
        per_model.append(np.mean(seeds, axis=0))
        spread = np.std([values.mean(axis=0) for values in seeds], axis=0, ddof=1) if len(seeds) > 1 else None
        models.append(_described(entry) | {"coverage": float(np.mean(covered)), "spread": spread})
    whole = np.concatenate(per_model, axis=1)  # [B, models * metrics]
    means = resampled_means(whole, np.random.default_rng(seed), config.resamples)
    found = estimates(whole, means)
    for row, model in enumerate(models):
        spread = model.pop("spread")
        own = found[row * len(METRICS) : (row + 1) * len(METRICS)]
        model["metrics"] = {
            name: asdict(estimate) | {"seed_sd": None if spread is None else float(spread[column])}
            for column, (name, estimate) in enumerate(zip(METRICS, own, strict=True))
        } | {f"coverage@{_CUTOFF}": {"mean": model.pop("coverage"), "low": None, "high": None, "seed_sd": None}}
    names = [model["name"] for model in models]
    column = slice(METRICS.index(config.metric), None, len(METRICS))
    if config.reference in names:
        reference = names.index(config.reference)
        leads = differences(whole[:, column], means[:, column], reference)
        for row, (model, lead) in enumerate(zip(models, leads, strict=True)):
            if row != reference:
                model["lead"] = asdict(lead.estimate) | {"p": lead.p, "p_holm": lead.p_holm}
    beside = whole[:, column][:, [model["group"] == MODELS for model in models]]
    if beside.shape[1] < 2:
        return models, None, whole
    best = beside.max(axis=1, keepdims=True)
    (oracle,) = estimates(best, resampled_means(best, np.random.default_rng(seed), config.resamples))
    return models, asdict(oracle), whole


def _described(entry: Entry) -> dict[str, Any]:
    outcomes = [outcome for _, outcome in entry.cells]
    return {
        "name": entry.variant.name,
        "title": entry.variant.title,
        "group": entry.variant.group,
        "baseline": entry.variant.baseline,
        "seeds": len(outcomes),
        "seedless": entry.seedless,
        "tried": entry.tried,
        "config": outcomes[0].chosen,
        "seconds": float(np.mean([outcome.seconds for outcome in outcomes])),
        "curves": [_curve(outcome) for outcome in outcomes if outcome.records],
    }


def _curve(outcome: Outcome) -> list[list[float]]:
    return [[record["epoch"], record["ndcg"]] for record in outcome.records]


def _slices(config: CompareConfig, entries: Sequence[Entry], index: int, stage: Stage, case: Case) -> dict[str, Any]:
    """Return how the models that stand beside each other do on parts of users and of right answers."""
    beside = [entry for entry in entries if entry.variant.group == MODELS]
    ranked = [[outcome.lists[index, stage] for _, outcome in entry.cells] for entry in beside]
    if not ranked:
        return {}
    accuracy = np.stack(
        [
            np.mean(
                [per_user(one, case.truth_offsets, case.truth_product_index)[config.metric] for one in lists], axis=0
            )
            for lists in ranked
        ],
        axis=1,
    )
    found = np.stack(
        [np.mean([found_pairs(one, case, _PAIRS_CUTOFF) for one in lists], axis=0) for lists in ranked], axis=1
    )
    return {
        "models": [entry.variant.name for entry in beside],
        "history": _told(by_history(case, accuracy)),
        "popularity": _told(by_popularity(case, found)),
        "age": _told(by_age(case, found)),
    }


def _told(slices: list[Slice]) -> list[dict[str, Any]]:
    return [asdict(part) for part in slices]
