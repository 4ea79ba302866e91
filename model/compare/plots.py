"""The plots of a report, each drawn from the values of one of its tables. Needs matplotlib."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from model.compare.config import MODELS
from model.compare.drawing import (
    DASHES,
    INK,
    MARKERS,
    OTHERS,
    PLAIN,
    REFERENCE,
    figure,
    grid,
    named,
    spread,
    svg,
    titled,
)

Table = dict[str, Any]
Model = dict[str, Any]

_SHOWN = 6
"""Lines in a plot of lines: the reference and the best others."""
_MANY_EPOCHS = 20
"""Epochs above which they are drawn on a log scale: a peer may need twenty times ours, which would be one dot."""

_EVENTS = re.compile(r"(first|last) (\d+) events?$")


@dataclass(frozen=True)
class Plot:
    """A plot: a name for its file, what it shows in one sentence, and the drawing."""

    name: str
    caption: str
    drawing: str


def plots_of(table: Table, metric: str, reference: str, *, first: bool = True) -> list[Plot]:
    """Return the plots of one table; those of the models as such only for the first of a protocol's tables."""
    label = label_of(metric)
    found = [Plot("models", f"{label} with 95 % intervals over users.", intervals(table, metric, reference))]
    groups = dict.fromkeys(model["group"] for model in table["models"] if model["group"] != MODELS)
    for group in groups:
        caption = f"{group}: {label} of each variant less that of {_title(table, reference)}, with 95 % intervals."
        if any(model.get("lead") for model in table["models"] if model["group"] == group):
            found.append(Plot(f"variants-{group}", caption, leads(table, group)))
    if table.get("slices") and any(len(table["slices"][key]) > 1 for key in ("history", "popularity", "age")):
        caption = f"{label} by history; share of right products in the first 20 by popularity and age."
        found.append(Plot("slices", caption, slices(table, metric, reference)))
    if not first:
        return found
    if len(_beside(table)) > 1:
        found.append(Plot("coverage", f"Coverage against {label}.", coverage(table, metric, reference)))
    if any(model["curves"] for model in table["models"]):
        found.append(
            Plot(
                "learning",
                "NDCG@10 on validation data after every epoch.",
                learning(table, reference),
            )
        )
    return found


def label_of(metric: str) -> str:
    """Return a metric as people write it."""
    what, _, cutoff = metric.partition("@")
    return f"{what.upper() if what in ('ndcg', 'hr', 'mrr', 'map') else what}@{cutoff}"


def intervals(table: Table, metric: str, reference: str) -> str:
    """Draw each model's mean and interval, best on top."""
    models = sorted(_beside(table), key=lambda model: _mean(model, metric))
    drawn, (axes,) = figure(7.2, 0.9 + 0.27 * len(models))
    for row, model in enumerate(models):
        found = model["metrics"][metric]
        colour = REFERENCE if model["name"] == reference else PLAIN
        axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(found["mean"], row, "o", color=colour, markersize=6)
        axes.annotate(
            f"{found['mean']:.4f}".lstrip("0"),
            (found["high"], row),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
        )
    axes.set_yticks(range(len(models)), [model["title"] for model in models])
    axes.set_ylim(-0.7, len(models) - 0.3)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.set_xlabel(label_of(metric))
    grid(axes, "x")
    return svg(drawn)


def leads(table: Table, group: str) -> str:
    """Draw how far each variant of a group lies from the reference."""
    models = [model for model in table["models"] if model["group"] == group and model.get("lead")][::-1]
    drawn, (axes,) = figure(7.2, 1.0 + 0.36 * len(models))
    for row, model in enumerate(models):
        lead = model["lead"]
        colour = PLAIN if lead["p_holm"] >= 0.05 else (REFERENCE if lead["mean"] > 0 else "#0072b2")
        axes.plot([-lead["high"], -lead["low"]], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(-lead["mean"], row, "o", color=colour, markersize=6)
        axes.annotate(
            f"{-lead['mean']:+.4f}".replace("-", "−"),
            (-lead["mean"], row),
            (0, 6),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=8,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axes.margins(x=0.08)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(models)), [model["title"] for model in models])
    axes.set_ylim(-0.6, len(models) - 0.2)
    axes.set_xlabel("difference (grey: not clear after Holm's correction)")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    grid(axes, "x")
    return svg(drawn)


def coverage(table: Table, metric: str, reference: str) -> str:
    """Draw each model's coverage against its accuracy; names stand in a column beside, so that none overlap."""
    models = _beside(table)
    drawn, (axes,) = figure(7.2, max(3.2, 0.24 * len(models) + 1))
    x = [_mean(model, "coverage@10") for model in models]
    y = [_mean(model, metric) for model in models]
    top, right = max(y) * 1.08 or 1.0, max(x) * 1.04 or 1.0
    places = spread(y, top / (drawn.get_figheight() - 0.8) * 0.19, 0.02 * top, top)
    for model, at_x, at_y, place in zip(models, x, y, places, strict=True):
        colour = REFERENCE if model["name"] == reference else PLAIN
        axes.plot(at_x, at_y, "o", color=colour, markersize=6, zorder=3)
        axes.annotate(
            model["title"],
            (at_x, at_y),
            (right * 1.06, place),
            va="center",
            fontsize=8.5,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#b8c0c8", "linewidth": 0.6, "shrinkA": 2, "shrinkB": 4},
        )
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel("share of the candidates that is in anybody's first 10")
    axes.set_ylabel(label_of(metric))
    grid(axes, "y")
    return svg(drawn)


def slices(table: Table, metric: str, reference: str) -> str:
    """Draw the best models by history length, and by popularity and age of the right product."""
    told = table["slices"]
    names = [model["name"] for model in _best(table, metric, reference)]
    what = (
        ("history", f"{label_of(metric)} by interactions known", "interactions of the user"),
        ("popularity", "found in 20, by popularity", "interactions with the right product"),
        ("age", "found in 20, by age", "days since its first interaction"),
    )
    told_by = [one for one in what if len(told[one[0]]) > 1]
    drawn, panels = figure(0.6 + 3.2 * len(told_by), 3.5, len(told_by))
    for axes, (key, title, label) in zip(panels, told_by, strict=True):
        parts = told[key]
        _lines(
            axes,
            table,
            [model["name"] for model in _beside(table) if model["name"] in names and model["name"] in told["models"]],
            lambda name, parts=parts: [part["means"][told["models"].index(name)] for part in parts],  # type: ignore[misc]  # mypy can't infer a lambda's default
            lambda name, parts=parts: [part["margins"][told["models"].index(name)] for part in parts],  # type: ignore[misc]  # mypy can't infer a lambda's default
            reference,
        )
        named(axes, [part["label"] for part in parts])
        titled(axes, title, label)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2 * len(told_by), frameon=False, fontsize=8.5)
    return svg(drawn)


def learning(table: Table, reference: str) -> str:
    """Draw validation NDCG@10 by epoch, of the models that tell it."""
    learned: list[Model] = []
    for model in sorted(table["models"], key=lambda model: model["name"] != reference):
        # A variant that is only asked otherwise has the training of another one.
        if model["curves"] and model["curves"] not in [other["curves"] for other in learned]:
            learned.append(model)
    drawn, (axes,) = figure(7.2, 3.4)
    longest = 0
    for model in learned[:_SHOWN][::-1]:
        of_reference = model["name"] == reference
        look = {"color": REFERENCE, "label": model["title"]} if of_reference else _look(table, model["name"], reference)
        curves = model["curves"]
        shared = min(len(curve) for curve in curves)  # epochs that every seed has come to
        longest = max(longest, shared)
        reached = np.array([[ndcg for _, ndcg in curve[:shared]] for curve in curves])
        epochs = [epoch for epoch, _ in curves[0][:shared]]
        axes.plot(epochs, reached.mean(axis=0), **look | {"marker": "o"}, markersize=3, linewidth=1.6)
        axes.fill_between(
            epochs, reached.min(axis=0), reached.max(axis=0), color=look["color"], alpha=0.15, linewidth=0
        )
    if longest > _MANY_EPOCHS:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch (mean and range of the seeds)")
    axes.set_ylabel("validation NDCG@10")
    grid(axes, "y")
    if len(learned) > 1:
        drawn.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return svg(drawn)


def few_events(tables: Sequence[Table], metric: str, reference: str) -> str | None:
    """Draw a metric by how many events of a cold user are given; None where the tables don't ask that."""
    asked = {table["question"]: table for table in tables}
    counts = sorted({int(match.group(2)) for name in asked if (match := _EVENTS.match(name))})
    whole = asked.get("whole history")
    if not counts or whole is None:
        return None
    drawn, panels = figure(9.2, 3.5, 2)
    best = [model["name"] for model in _best(whole, metric, reference)]
    for axes, kind in zip(panels, ("last", "first"), strict=True):
        rows = [
            asked.get(f"{kind} {count} event{'' if count == 1 else 's'}") or asked["first 0 events"] for count in counts
        ]
        rows.append(whole)

        def figures(name: str, rows: list[Table] = rows) -> list[float]:
            return [_mean(_model(table, name), metric) for table in rows]

        def margins(name: str, rows: list[Table] = rows) -> list[float]:
            found = [_model(table, name)["metrics"][metric] for table in rows]
            return [(one["high"] - one["low"]) / 2 for one in found]

        _lines(axes, whole, best, figures, margins, reference)
        named(axes, [*map(str, counts), "all"])
        titled(axes, f"{kind} interactions of a user given", "how many are given")
        axes.set_ylabel(label_of(metric))
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=8.5)
    return svg(drawn)


def _lines(
    axes: Axes,
    table: Table,
    names: Sequence[str],
    figures: Callable[[str], list[float]],
    margins: Callable[[str], list[float]],
    reference: str,
) -> None:
    """Draw a line for each model; the reference with its intervals, on top."""
    for name in names:
        if name != reference:
            axes.plot(figures(name), **_look(table, name, reference), markersize=4, linewidth=1.2)
    if reference in names:
        axes.errorbar(
            range(len(figures(reference))),
            figures(reference),
            margins(reference),
            color=REFERENCE,
            marker="o",
            markersize=5,
            linewidth=2,
            elinewidth=1,
            capsize=2,
            label=_title(table, reference),
        )
    axes.set_ylim(bottom=0)
    grid(axes, "y")


def _look(table: Table, name: str, reference: str) -> dict[str, Any]:
    """Return how the line of a model looks: the same in every plot of a data set."""
    row = [model["name"] for model in table["models"] if model["name"] != reference].index(name)
    return {
        "color": OTHERS[row % len(OTHERS)],
        "marker": MARKERS[(row + 3 * (row // len(OTHERS))) % len(MARKERS)],
        "linestyle": DASHES[row // len(OTHERS) % len(DASHES)],
        "label": _title(table, name),
    }


def _beside(table: Table) -> list[Model]:
    return [model for model in table["models"] if model["group"] == MODELS]


def _best(table: Table, metric: str, reference: str) -> list[Model]:
    """Return the reference and the best others, best first."""
    ordered = sorted(_beside(table), key=lambda model: (model["name"] != reference, -_mean(model, metric)))
    return ordered[:_SHOWN]


def _mean(model: Model, metric: str) -> float:
    return float(model["metrics"][metric]["mean"])


def _model(table: Table, name: str) -> Model:
    return next(model for model in table["models"] if model["name"] == name)


def _title(table: Table, name: str) -> str:
    return next((str(model["title"]) for model in table["models"] if model["name"] == name), name)
