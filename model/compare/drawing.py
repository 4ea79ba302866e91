"""How plots look: one style, a colour for each model, and SVG out of it. Needs matplotlib."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

REFERENCE = "#c1272d"
"""The colour of the model that others are compared with."""

PLAIN = "#5b6770"
INK = "#1f2933"
_FAINT = "#d9dee3"

OTHERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7a5195", "#8c6d31")
"""Told apart by colour-blind readers too (Okabe and Ito 2008)."""

MARKERS = ("s", "^", "D", "v", "P", "X", "<")

DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
"""Told apart where there are more models than colours."""

_STYLE: Any = {  # matplotlib types its 300 keys one by one
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": _FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "kgrank",
    "svg.fonttype": "path",
}


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of a size in inches with axes side by side."""
    with rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        axes = [drawn.add_subplot(1, columns, column + 1) for column in range(columns)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(length=0, pad=5)
        one.set_axisbelow(True)
    return drawn, axes


def grid(axes: Axes, which: str) -> None:
    """Draw faint lines along one axis, `x` or `y`."""
    axes.grid(axis="x" if which == "x" else "y", color=_FAINT, linewidth=0.8)


def titled(axes: Axes, title: str, label: str) -> None:
    """Name a panel and its horizontal axis."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.set_xlabel(label)


def named(axes: Axes, labels: Sequence[str]) -> None:
    """Name the places 0, 1, 2 ... of the horizontal axis; slanted where they would touch."""
    long = sum(len(label) for label in labels) > 24
    axes.set_xticks(
        range(len(labels)), labels, fontsize=8, rotation=28 if long else 0, ha="right" if long else "center"
    )
    axes.tick_params(axis="x", pad=1 if long else 4)


def svg(drawn: Figure) -> str:
    """Return a figure as SVG; the same figure gives the same text."""
    sink = io.StringIO()
    with rc_context(_STYLE):
        drawn.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def spread(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Return places as near to the wanted ones as they can be with a least distance between them, in the same order.

    Args:
        wanted: places to be near to, in any order.
        least: distance between neighbours.
        low: lowest place.
        high: highest place.
    """
    order = sorted(range(len(wanted)), key=lambda row: wanted[row])
    # Neighbours that are too near form a block around the mean of what they want; blocks that touch become one.
    blocks: list[list[int]] = []
    starts: list[float] = []
    for row in order:
        blocks.append([row])
        starts.append(wanted[row])
        while True:
            size = (len(blocks[-1]) - 1) * least
            middle = sum(wanted[member] for member in blocks[-1]) / len(blocks[-1])
            starts[-1] = min(max(middle - size / 2, low), max(low, high - size))
            if len(blocks) < 2 or starts[-2] + len(blocks[-2]) * least <= starts[-1]:
                break
            last = blocks.pop()
            starts.pop()
            blocks[-1] += last
    places = [0.0] * len(wanted)
    for start, block in zip(starts, blocks, strict=True):
        for step, row in enumerate(block):
            places[row] = start + step * least
    return places
