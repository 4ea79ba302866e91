"""Whether what was to be reached is reached, from the tables of a report."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from model.compare.config import MODELS, CompareConfig, Goal
from model.compare.statistics import Sample, margin

Table = dict[str, Any]
Figures = dict[tuple[str, str, str, str, str], Sample]
"""By data, protocol, question, model and metric."""


def judged(
    config: CompareConfig,
    tables: Sequence[Table],
    figures: Figures,
    missing: Collection[tuple[str, str, str]] = (),
    seed: int = 7,
) -> list[dict[str, Any]]:
    """Return each goal with what was wanted, what was reached, and whether that is enough.

    A goal whose figures are not in the tables has `reached` and `met` None. The mean decides; whether the interval does
    too stands in `clear`, None where there is none: around what was reached, or, where what is wanted is a figure
    itself, around how far the two lie apart. How many baselines a goal above the best of them does not know yet stands
    in `missing`.

    Args:
        config: the comparison.
        tables: what was reached.
        figures: what each user came to, of the goals' metrics.
        missing: data, protocol and title of baselines that are not computed.
        seed: of the bootstrap.
    """
    return [_judged(config, goal, tables, figures, missing, seed) for goal in config.goals]


def _judged(
    config: CompareConfig,
    goal: Goal,
    tables: Sequence[Table],
    figures: Figures,
    missing: Collection[tuple[str, str, str]],
    seed: int,
) -> dict[str, Any]:
    name = goal.model or config.reference
    told: dict[str, Any] = {
        "data": goal.data,
        "protocol": goal.protocol,
        "question": goal.question,
        "model": name,
        "metric": goal.metric,
        "wanted": None,
        "reached": None,
        "met": None,
        "clear": None,
        "against": "",
        "missing": 0,
    }
    table = _table(tables, goal, goal.question)
    model = _model(table, name)
    if table is None or model is None:
        return told
    figure = model["metrics"][goal.metric]
    told |= {"question": table["question"], "reached": figure["mean"]}

    def clear(question: str, other: str, share: float) -> bool | None:
        places = ((table["question"], name), (question, other))
        one, held_against = (figures.get((goal.data, goal.protocol, *place, goal.metric)) for place in places)
        if one is None or held_against is None:
            return None
        return margin(one, held_against, share, np.random.default_rng(seed), config.resamples).low >= 0

    if goal.at_least is not None:
        told |= {"wanted": goal.at_least, "clear": None if figure["low"] is None else figure["low"] >= goal.at_least}
    elif goal.share is not None:
        other = _model(_table(tables, goal, goal.of), name)
        if other is None:
            return told
        told |= {"wanted": goal.share * other["metrics"][goal.metric]["mean"], "against": goal.of}
        told["clear"] = clear(goal.of, name, goal.share)
    else:
        best = _best_other(table, goal, name)
        if best is None:
            return told
        assert goal.above is not None
        told |= {"wanted": (1 + goal.above) * best["metrics"][goal.metric]["mean"], "against": best["title"]}
        told["clear"] = clear(table["question"], best["name"], 1 + goal.above)
        if not goal.above_only:
            told["missing"] = sum(each[:2] == (goal.data, goal.protocol) for each in missing)
    return told | {"met": told["reached"] >= told["wanted"]}


def _best_other(table: Table, goal: Goal, name: str) -> dict[str, Any] | None:
    """Return the baseline that the goal looks at: the named one, or the best."""
    others = [
        model
        for model in table["models"]
        if model["name"] == goal.above_only
        or (not goal.above_only and model["group"] == MODELS and model["baseline"] and model["name"] != name)
    ]
    return max(others, key=lambda model: float(model["metrics"][goal.metric]["mean"]), default=None)


def _table(tables: Sequence[Table], goal: Goal, question: str) -> Table | None:
    return next(
        (
            table
            for table in tables
            if table["data"] == goal.data
            and table["protocol"] == goal.protocol
            and (not question or table["question"] == question)
        ),
        None,
    )


def _model(table: Table | None, name: str) -> dict[str, Any] | None:
    return next((model for model in table["models"] if model["name"] == name), None) if table else None
