"""What a report's tables say, as rows of text: the same for Markdown and HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.compare.config import MODELS

Document = dict[str, Any]

_FIGURES = ("ndcg@10", "hr@10", "recall@20", "mrr@10", "coverage@10")


@dataclass(frozen=True)
class Sheet:
    """One table: a heading, a sentence, columns, rows, and which rows stand out."""

    heading: str
    sentence: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()


def sheets(document: Document) -> list[tuple[dict[str, Any], list[Sheet]]]:
    """Return, for each table of a document, a sheet for each group of its models."""
    return [(table, _groups(document, table)) for table in document["tables"]]


def place(table: dict[str, Any]) -> str:
    """Return what a table is of."""
    return f"{table['title']}, {table['protocol']}: {table['question']}"


def goal_sheet(document: Document) -> Sheet | None:
    """Return the goals and whether they are met."""
    if not document["goals"]:
        return None
    rows = []
    for goal in document["goals"]:
        against = f" ({goal['against']})" if goal["against"] else ""
        met = {True: "met", False: "not met", None: "not computed"}[goal["met"]]
        if goal["met"] and goal["clear"] is False:
            met = "met by the mean, not by the interval"
        if goal["met"] and goal["missing"]:
            met += f"; {goal['missing']} baseline{'' if goal['missing'] == 1 else 's'} not computed"
        where = ", ".join(part for part in (goal["data"], goal["protocol"], goal["question"]) if part)
        wanted = "" if goal["wanted"] is None else f"{_number(goal['wanted'])}{against}"
        rows.append((where, _metric(goal["metric"]), wanted, _number(goal["reached"]), met))
    return Sheet("Goals", "", ("where", "metric", "wanted", "reached", ""), rows)


def tuning_sheet(document: Document) -> Sheet:
    """Return how many configurations each model was chosen from."""
    rows = [
        (part["model"], str(part["tried"]), str(part["tried_before"] or ""), _settings(part["chosen"]))
        for part in document["tuning"]
    ]
    return Sheet(
        "Tuning",
        "Configurations tried on validation data: in this run, and before it to get to the committed one.",
        ("model", "tried", "tried before", "chosen"),
        rows,
    )


def _groups(document: Document, table: dict[str, Any]) -> list[Sheet]:
    reference = document["reference"]
    groups = dict.fromkeys([MODELS, *(model["group"] for model in table["models"])])
    found = []
    for group in groups:
        models = [model for model in table["models"] if model["group"] == group]
        if not models:
            continue
        if group != MODELS:  # variants stand below what they are variants of
            models = [model for model in table["models"] if model["name"] == reference] + models
        else:
            models = sorted(models, key=lambda model: -float(model["metrics"][document["metric"]]["mean"]))
        found.append(_sheet(document, table, group, models))
    return found


def _sheet(document: Document, table: dict[str, Any], group: str, models: list[dict[str, Any]]) -> Sheet:
    metric, reference = document["metric"], document["reference"]
    figures = [name for name in dict.fromkeys((metric, *_FIGURES)) if name != metric]
    of_reference = next((model["title"] for model in table["models"] if model["name"] == reference), "")
    columns = ["model", _metric(metric), "95 %", *(_metric(name) for name in figures), "seeds"]
    if of_reference:
        columns += [f"− {of_reference}", "p (Holm)"]
    rows = []
    for model in models:
        own, lead = model["metrics"][metric], model.get("lead")
        seeds = "any" if model["seedless"] else str(model["seeds"])
        if own["seed_sd"] is not None:
            seeds += f" (sd {_number(own['seed_sd'])})"
        row = [model["title"], _number(own["mean"]), f"{_number(own['low'])}–{_number(own['high'])}"]
        row += [*(_number(model["metrics"][name]["mean"]) for name in figures), seeds]
        if of_reference:
            row += ["", ""] if lead is None else [_signed(lead), _p(lead["p_holm"])]
        rows.append(row)
    if group == MODELS and (oracle := table.get("oracle")):
        interval = f"{_number(oracle['low'])}–{_number(oracle['high'])}"
        row = ["best of these for each user (oracle)", _number(oracle["mean"]), interval]
        rows.append(row + [""] * (len(columns) - len(row)))
    what = "" if group == MODELS else f" · {group}"
    sentence = f"{table['users']:,} users, {table['answers']:,} right products, {table['candidates']:,} candidates."
    strong = frozenset(row for row, model in enumerate(models) if model["name"] == reference)
    return Sheet(place(table) + what, sentence, columns, rows, strong)


def _signed(lead: dict[str, Any]) -> str:
    """Return how far a model lies above the reference, with its interval."""
    return f"{-lead['mean']:+.4f} ({-lead['high']:+.4f} to {-lead['low']:+.4f})".replace("-", "−")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".lstrip("0") if 0 <= value < 1 else f"{value:.2f}"


def _metric(name: str) -> str:
    known = {"ndcg": "NDCG", "hr": "HR", "mrr": "MRR", "recall_capped": "recall (capped)"}
    what, _, cutoff = name.partition("@")
    return f"{known.get(what, what)}@{cutoff}"


def _settings(chosen: dict[str, Any]) -> str:
    parts = []
    for key, value in chosen.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{name} {_value(value[name])}" for name in value)
            parts.append(f"{key}: {inner}" if key else inner)
        else:
            parts.append(f"{key} {_value(value)}")
    return "; ".join(parts)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
