"""A comparison of two models on the coffee shop, made once: what several files of tests look at."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.compare.config import CompareConfig, read_comparison
from model.compare.running import run
from model.compare.sections import Place, Section, Skipped, Watcher

ROOT = Path(__file__).parents[3]
SHOP = ROOT / "examples" / "shop"
BASE = """
[model]
dimension = 16
layers = 1
text_kernel_dimension = 8
history_length = 8
[train]
epochs = 1
batch_users = 32
threads = 1
"""
COMPARISON = """
title = "Small"
reference = "ours"
seeds = [1, 2, 3]
trials = 2
threads = 1
resamples = 200

[data.shop]
title = "Coffee shop"
source = "tables"
interactions = ["interactions.csv"]
products = ["products.csv"]
facts = ["facts.csv"]

[data.missing]
source = "amazon"
reviews = ["nowhere.json.gz"]

[protocols.next]
protocol = "leave-one-out"
repeats = true

[models.popularity]
baseline = "popularity"

[models.ours]
config = "base.toml"
search = [{}, { "train.learning_rate" = 1e-5 }]

[models.asked-badly]
like = "ours"
noise = { titles = 0.5, events = 0.2 }
noise_at = "scoring"
group = "noise"

[[goals]]
data = "shop"
protocol = "next"
at_least = 0.0

[[goals]]
data = "missing"
protocol = "next"
at_least = 0.5
"""


@dataclass
class Heard:
    """What a run told."""

    computed: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left: list[float | None] = field(default_factory=list)

    def watcher(self) -> Watcher:
        def on_cell(cell: Any, there: bool, seconds: float, left_s: float | None) -> None:
            (self.found if there else self.computed).append(f"{cell.model} {cell.seed}")
            self.left.append(left_s)

        return Watcher(on_cell=on_cell, on_problem=lambda what, why: self.problems.append(f"{what}: {why}"))


@dataclass(frozen=True)
class Compared:
    """A comparison that has run once."""

    config: CompareConfig
    place: Place
    heard: Heard
    parts: list[Section | Skipped]


def make_compared(folder: Path) -> Compared:
    """Run the comparison in a folder."""
    (folder / "base.toml").write_text(BASE)
    (folder / "small.toml").write_text(COMPARISON)
    config, heard = read_comparison(folder / "small.toml"), Heard()
    place = Place(folder, SHOP, folder / "home", folder / "cache")
    return Compared(config, place, heard, list(run(config, place, heard.watcher())))


def section(compared: Compared) -> Section:
    return next(part for part in compared.parts if isinstance(part, Section))
