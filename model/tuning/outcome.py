"""What a search leaves for people and for the next command: the best settings as TOML, and what each setting is worth.

best.toml         a configuration file: kgrank --config best.toml train
importance.png    settings by their share in the variance of validation NDCG@10
trials.json       every trial
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from kg.whole_files import write_whole
from model.tuning.search import Found

BEST, PLOT, TRIALS = "best.toml", "importance.png", "trials.json"
_HEIGHT, _ROW_HEIGHT = 1.1, 0.28  # inches


def write_outcome(folder: Path, found: Found, settings: Mapping[str, Any], told: str, best_file: Path) -> list[Path]:
    """Write what was found, each file in one step, and return the files.

    Args:
        folder: of the search.
        found: what it came to.
        settings: the best ones, as sections of a configuration file.
        told: first line of that file: of which data and how good.
        best_file: where the best settings go.
    """
    written = [best_file, folder / TRIALS]
    best = f"# {told}\n\n{tomli_w.dumps(_without_none(settings))}"
    write_whole(best_file, best.encode())
    write_whole(folder / TRIALS, json.dumps([asdict(tried) for tried in found.trials], indent=2).encode())
    if found.importance:
        write_whole(folder / PLOT, importance_plot(found.importance))
        written.append(folder / PLOT)
    return written


def importance_plot(importance: Mapping[str, float]) -> bytes:
    """Return a PNG of settings by importance, the first on top."""
    from model.compare.drawing import PLAIN, figure, grid, titled

    names = sorted(importance, key=lambda name: importance[name])
    drawn, (axes,) = figure(7, _HEIGHT + _ROW_HEIGHT * len(names))
    axes.barh(names, [importance[name] for name in names], color=PLAIN)
    grid(axes, "x")
    titled(axes, "What each setting is worth", "share in the variance of validation NDCG@10")
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table as TOML can say it: a setting that is not set is left out."""
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }
