"""What every baseline is: a function from what is known to a ranker, with the configurations it may be tuned over."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from kg.errors import MissingExtraError
from kg.snapshot import Edges, Histories, Snapshot
from model.baselines.space import Axis
from model.case import Case
from model.checkpoint import EpochRecord
from model.config import ModelConfig
from model.ranker import Ranker
from model.text import encode_cached

Float32s = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class FitData:
    """All that a baseline may learn from.

    Args:
        known: interactions of all users; nothing else of `snapshot.histories` may be read.
        snapshot: products, nodes and facts.
        text: gives the frozen text features of the P products `[P, W]`, unit length; computed when first asked.
        validation: chooses configurations, and how many epochs what is trained by steps takes.
        seed: of all that is random.
        threads: processor threads; 0: the library's choice.
        exclude_relations: facts that must not be seen, as in `model.exclude_relations`.
        to_the_end: what is trained by steps takes all epochs of its configuration, and does not look at validation.
        on_epoch: hears of every epoch that validation has measured, with the configuration that is trained.
        shared: what fits share; see `memo`.
    """

    known: Histories
    snapshot: Snapshot
    text: Callable[[], Float32s] = field(repr=False)
    validation: Case
    seed: int = 7
    threads: int = 0
    exclude_relations: tuple[str, ...] = ()
    to_the_end: bool = False
    on_epoch: Callable[[BaseModel, EpochRecord], None] = field(default=lambda config, record: None, repr=False)
    shared: dict[str, tuple[Histories, Hashable, Any]] = field(default_factory=dict, repr=False, compare=False)

    def at(self, known: Histories) -> "FitData":
        """Return the same with other interactions to learn from."""
        return replace(self, known=known)

    def memo(self, what: str, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what fits on the same interactions share; of each thing only the last one is kept.

        Args:
            what: names the thing.
            key: what it depends on beside the data.
            compute: makes it.
        """
        kept = self.shared.get(what)
        if kept is None or kept[0] is not self.known or kept[1] != key:
            self.shared.pop(what, None)  # before the next is made: it may be large
            kept = self.shared[what] = (self.known, key, compute())
        made: T = kept[2]
        return made

    @property
    def product_count(self) -> int:
        """P."""
        return len(self.snapshot.products)

    @property
    def facts(self) -> Mapping[str, Edges]:
        """The facts that may be seen."""
        return {name: edges for name, edges in self.snapshot.facts.items() if name not in self.exclude_relations}


@dataclass(frozen=True)
class Baseline:
    """How to fit a baseline, and what to tune.

    Args:
        fit: called with a `FitData` and one configuration.
        grid: configurations to choose from; the first is the default, or the published recipe.
        space: the range of each field that is worth tuning: what a wider search draws from.
        needs: packages it needs beside those of `kgrank[train]`.
        by_epochs: it is trained by steps, and has `epochs` in its configuration: the most of which validation chooses.
    """

    fit: Callable[[FitData, Any], Ranker]
    grid: tuple[Any, ...]
    space: Mapping[str, Axis] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    by_epochs: bool = False

    def fit_stopped(self, data: FitData, config: Any) -> tuple[Ranker, Any]:
        """Fit on `data.known`, which must not hold the answers of `data.validation`.

        Returns:
            The ranker, and the configuration to fit anew with: of as many epochs as were best on validation.
        """
        if not self.by_epochs:
            return self.fit(data, config), config
        records: list[EpochRecord] = []

        def hear(trained: BaseModel, record: EpochRecord) -> None:
            records.append(record)
            data.on_epoch(trained, record)

        ranker = self.fit(replace(data, on_epoch=hear), config)
        return ranker, config.model_copy(update={"epochs": max(records, key=lambda record: record.ndcg).epoch})

    def fit_anew(self, data: FitData, config: Any) -> Ranker:
        """Fit on all that a case knows, validation's answers included, with what `fit_stopped` returned."""
        return self.fit(replace(data, to_the_end=True), config)

    def check_needs(self, name: str) -> None:
        """Make sure that what it needs is installed.

        Raises:
            MissingExtraError: a package is missing.
        """
        missing = [package for package in self.needs if find_spec(package) is None]
        if missing:
            raise MissingExtraError(
                f"baseline {name} needs the package {missing[0]}",
                "Install it: pip install '.[peers]' in kgrank's clone",
            )


def fit_data(
    snapshot: Snapshot,
    known: Histories,
    validation: Case,
    config: ModelConfig,
    text_cache_folder: Path,
    *,
    seed: int = 7,
    threads: int = 0,
) -> FitData:
    """Return what baselines learn from beside a model: the same facts, the same text encoder.

    Args:
        snapshot: products, nodes and facts.
        known: the interactions to fit on.
        validation: the case that chooses configurations.
        config: of the model they stand beside: its text encoder, and the relations it must not see.
        text_cache_folder: where text features are cached.
        seed: of all that is random.
        threads: processor threads; 0: the library's choice.
    """

    @cache
    def text() -> Float32s:
        return encode_cached(snapshot.catalogue["text"].to_pylist(), config.text, text_cache_folder)

    return FitData(known, snapshot, text, validation, seed, threads, config.exclude_relations)
