"""A comparison run: every cell that is not there yet is computed, one after the other, and kept.

Kill it at any moment and run it again: finished cells are found by the hash of their inputs, and a training under way
goes on from its last epoch. Several processes may run the same comparison: each claims the cells that it computes, and
leaves those of the others to them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from functools import lru_cache, partial
from typing import Any

import structlog

from kg.errors import KgrankError
from model.baselines import BASELINES
from model.compare.cells import DEPTH, Cell, CellStore, Outcome
from model.compare.code_version import code_version
from model.compare.config import CompareConfig
from model.compare.data import MissingDataError, read_snapshot
from model.compare.fitting import Workplace, fit_ours, fit_peer
from model.compare.forecast import Forecast
from model.compare.sections import Entry, Place, Section, Skipped, Watcher
from model.compare.variants import Variant, variants
from model.config import TextConfig
from model.errors import ModelError
from model.finetune.provenance import check_tuned_here
from model.libraries import installed_libraries
from model.settings import RunSettings
from model.splits import make_split
from model.text import encoder_digest

_log = structlog.get_logger(__name__)

_Planned = tuple[Section, list[str]]
"""A section without its entries, and the names of the models that are to have one."""

# Values of settings are inputs of a cell themselves; what plans and keeps cells does not change what is in them.
_APART = (
    "model.config",
    "model.settings",
    "model.compare.variants",
    "model.compare.cells",
    "kg.errors",
    "model.errors",
)
_LEARNING = ("model.pipeline", "model.train", "model.refresh", "model.checkpoint")


def run(
    config: CompareConfig,
    place: Place,
    watcher: Watcher | None = None,
    *,
    only: Sequence[str] = (),
    compute: bool = True,
) -> Iterator[Section | Skipped]:
    """Yield the sections of a comparison, when they are whole.

    Args:
        config: the comparison.
        place: where it reads and keeps.
        watcher: hears how far it is.
        only: patterns of DATA/PROTOCOL/MODEL to compute; everything when empty.
        compute: compute what is not there; without, it is left out.

    Raises:
        ConfigError: the configuration names something that is not there.
    """
    run_ = _Run(config, place, watcher or Watcher(), tuple(only), compute)
    planned: list[_Planned] = []
    for part in run_.parts():
        if isinstance(part, Skipped):
            yield part
        else:
            planned.append(part)
    run_.watcher.on_plan(run_.forecast.total, run_.forecast.there)
    found = [run_.entries(*part) for part in planned]
    run_.waits = True  # for what was left to others
    for (section, names), entries in zip(planned, found, strict=True):
        whole = run_.entries(section, names) if entries is None else entries
        left_out = [each for each in run_.variants(section, None) if each.name not in names]
        yield replace(section, entries=whole or (), left_out=left_out)


def help_out(config: CompareConfig, place: Place, only: Sequence[str] = ()) -> None:
    """Compute the cells of a comparison that nobody else is at, beside the process that reports on it.

    Args:
        config: the comparison.
        place: where it reads and keeps.
        only: patterns of DATA/PROTOCOL/MODEL to compute; everything when empty.
    """
    run_ = _Run(config, place, Watcher(), tuple(only), compute=True)
    for part in list(run_.parts()):
        if not isinstance(part, Skipped):
            run_.entries(*part)


class _Run:
    """What the sections of one run share."""

    def __init__(
        self, config: CompareConfig, place: Place, watcher: Watcher, only: tuple[str, ...], compute: bool
    ) -> None:
        self.config, self.place, self.watcher, self.only, self.compute = config, place, watcher, only, compute
        self.store = CellStore(place.home / "cells")
        self.forecast = Forecast()
        self.waits = False
        self._left_to_others = False
        self._told: set[tuple[str, ...]] = set()
        self._problems: dict[str, str] = {}
        self.ours = code_version(
            ["model.pipeline", "model.ranker", "model.refresh", "model.splits", "model.compare.noise"],
            alone=["model.compare.fitting"],
            apart=_APART,
        )

    def wanted(self, section: Section, variant: Variant) -> bool:
        name = _name(section, variant)
        return not self.only or any(fnmatch(name, pattern) for pattern in self.only)

    def variants(self, section: Section, tried: dict[str, int] | None) -> Iterator[Variant]:
        """Yield the models of a section; while planning (`tried` is None), no search is made."""

        def choose(variant: Variant) -> RunSettings:
            first = variant.settings.with_overrides(variant.search[0])
            if tried is None or _name(section, variant) in self._problems:
                return first
            return self._chosen(section, variant, tried) or first

        relations = tuple(section.snapshot.facts)
        yield from variants(self.config, self.place.config_folder, section.data, section.protocol, relations, choose)

    def parts(self) -> "Iterator[_Planned | Skipped]":
        """Yield each section with the names of the models that are wanted there, or why it can't be had."""
        for data, source in self.config.data.items():
            place = self.place
            try:
                snapshot = read_snapshot(source, place.data_folder, place.config_folder, place.cache_folder)
            except MissingDataError as error:
                self.watcher.on_problem(f"data set {data} is skipped", error.problem)
                yield Skipped(data, error.problem)
                continue
            for protocol, split_config in self.config.protocols.items():
                try:
                    split = make_split(snapshot, split_config)
                except ModelError as error:
                    self.watcher.on_problem(f"{data}/{protocol} is skipped", error.problem)
                    yield Skipped(f"{data}/{protocol}", error.problem)
                    continue
                section = Section(data, source.title or data, protocol, snapshot, split)
                planned = [variant for variant in self.variants(section, None) if self.wanted(section, variant)]
                if planned:
                    self.plan(section, [variant for variant in planned if self._may_be_asked(section, variant)])
                    yield section, [variant.name for variant in planned]

    def _may_be_asked(self, section: Section, variant: Variant) -> bool:
        try:
            check_tuned_here(variant.settings.model.text, section.snapshot.content_hash, section.split.config)
        except ModelError as error:
            self._has_problem(section, variant, error.problem)
            return False
        return True

    def _has_problem(self, section: Section, variant: Variant, problem: str) -> None:
        self._problems[_name(section, variant)] = problem
        self.watcher.on_problem(_name(section, variant), problem)

    def plan(self, section: Section, planned: Sequence[Variant]) -> None:
        """Count the cells of a section, and learn from those that are there how long each takes."""
        for variant in planned:
            for seed in self.config.seeds[: variant.seeds]:
                cell = self.cell(section, variant, seed, None)
                found = self.store.find(cell)
                self.forecast.expect(cell, found.seconds if found else None, ours=variant.baseline is None)
            for _ in variant.search:
                self.forecast.expect(self.cell(section, variant, self.config.seeds[0], None), None, ours=True)

    def entries(self, section: Section, names: Sequence[str]) -> list[Entry] | None:
        """Return all models of a section, computed or found.

        None where cells were left to other processes that are at them, unless the run `waits` for those.
        """
        self._left_to_others = False
        tried: dict[str, int] = {}
        entries = []
        scored: dict[str, list[Variant]] = {}
        resolved = [variant for variant in self.variants(section, tried) if variant.name in names]
        for variant in resolved:  # what differs only in what a finished model is asked with, shares its training
            if variant.baseline is None and not variant.search:
                scored.setdefault(self._training_key(section, variant), []).append(variant)
        for variant in resolved:
            name = _name(section, variant)
            try:
                if name in self._problems:
                    entries.append(Entry(variant, problem=self._problems[name]))
                elif variant.baseline is not None:
                    entries.append(self._peer(section, variant))
                else:
                    together = scored.get(self._training_key(section, variant), [variant])
                    if variant not in together:
                        together = [variant, *together]
                    entries.append(self._ours(section, variant, together, tried.get(variant.name, 1)))
            except KgrankError as error:
                self._has_problem(section, variant, error.problem)
                entries.append(Entry(variant, problem=error.problem))
        return None if self._left_to_others else entries

    def cell(self, section: Section, variant: Variant, seed: int, chosen: Mapping[str, Any] | None) -> Cell:
        """Return the cell of one seed; for a baseline, `chosen` is what the first seed's tuning chose."""
        settings = variant.settings.model_dump(mode="json", exclude={"split": True, "train": {"seed"}})
        inputs: dict[str, Any] = {
            "snapshot": section.snapshot.content_hash,
            "split": section.split.config.model_dump(mode="json"),
            "graph": variant.graph,
            "noise": variant.learned_noise and variant.learned_noise.model_dump(mode="json"),
            "asked_noise": variant.asked_noise and variant.asked_noise.model_dump(mode="json"),
            "encoder": _encoder(variant.settings.model.text),
            "seed": seed,
            "depth": DEPTH,
            "libraries": installed_libraries(),
        }
        if variant.baseline is None:
            inputs |= {"settings": settings, "code": self.ours}
        else:
            inputs |= {
                "baseline": variant.baseline,
                "text": settings["model"]["text"],
                "exclude_relations": settings["model"]["exclude_relations"],
                "trials": variant.trials,
                "chosen": chosen,
                "code": code_version(
                    [BASELINES[variant.baseline].fit.__module__, "model.ranker", "model.splits", "model.compare.noise"],
                    alone=["model.compare.fitting", "model.evaluate", "model.baselines"],
                    apart=(*_APART, *_LEARNING),
                ),
            }
        return Cell(section.data, section.protocol, variant.name, seed, inputs)

    def _training_key(self, section: Section, variant: Variant) -> str:
        return self.cell(section, replace(variant, noise=variant.learned_noise, noise_at="training"), 0, None).key

    def _chosen(self, section: Section, variant: Variant, tried: dict[str, int]) -> RunSettings | None:
        """Return the settings of a search that are best on validation, by the first seed."""
        best: tuple[float, RunSettings] | None = None
        for overrides in variant.search:
            option = replace(variant, settings=variant.settings.with_overrides(overrides), search=())
            # Waited for, if others are at it: what comes next depends on the best.
            try:
                cells = self._trained(section, option, [option], self.config.seeds[0], wait=True)
            except KgrankError as error:
                self.watcher.on_problem(f"{_name(section, variant)} with {dict(overrides)}", error.problem)
                continue
            if cells is None:
                continue
            tried[variant.name] = tried.get(variant.name, 0) + 1
            reached = cells[1].validation_ndcg or 0.0
            if best is None or reached > best[0]:
                best = reached, option.settings
        return best[1] if best else None

    def _ours(self, section: Section, variant: Variant, together: Sequence[Variant], tried: int) -> Entry:
        cells = [self._trained(section, variant, together, seed) for seed in self.config.seeds[: variant.seeds]]
        return Entry(variant, [cell for cell in cells if cell is not None], tried)

    def _trained(
        self, section: Section, variant: Variant, together: Sequence[Variant], seed: int, *, wait: bool = False
    ) -> tuple[Cell, Outcome] | None:
        """Return one seed of a model; with it, its like that are asked with noise are computed."""
        cells = {each.name: self.cell(section, each, seed, None) for each in together}
        plain = replace(variant, noise=variant.learned_noise, noise_at="training")

        def train() -> Outcome:
            return self._train(section, plain, cells[variant.name], [(cells[each.name], each) for each in together])

        # What shares a training is claimed with it.
        claim = self.cell(section, plain, seed, None)
        outcome = self._found_or_made(cells[variant.name], claim, train, wait=wait)
        return None if outcome is None else (cells[variant.name], outcome)

    def _train(self, section: Section, plain: Variant, cell: Cell, together: Sequence[tuple[Cell, Variant]]) -> Outcome:
        """Train a model for a cell and for those of its like that are not there, and keep all; return the cell's."""
        missing = {each.key: each for each, _ in together if each is cell or self.store.find(each) is None}
        asked = {each.key: variant.asked_noise for each, variant in together if each.key in missing}
        workplace = self._workplace(lambda epoch, ndcg: self.watcher.on_epoch(cell, epoch, ndcg))
        # By the training, not by what is asked of it: it goes on whatever is missing next time.
        training = self.cell(section, plain, cell.seed, None).key
        workplace = replace(workplace, checkpoint_folder=workplace.checkpoint_folder / training)
        outcomes: dict[str, Outcome] = {}
        for key, outcome in fit_ours(section.snapshot, section.split, plain, cell.seed, asked, workplace):
            self.store.keep(missing[key], outcome)
            outcomes[key] = outcome
        return outcomes[cell.key]

    def _peer(self, section: Section, variant: Variant) -> Entry:
        cells: list[tuple[Cell, Outcome]] = []
        chosen: Mapping[str, Any] | None = None
        seeds = self.config.seeds[: variant.seeds]
        for place, seed in enumerate(seeds):
            cell = self.cell(section, variant, seed, chosen)
            found = self._found_or_made(cell, cell, partial(self._fit_peer, section, variant, cell, chosen))
            if found is None:
                break
            cells.append((cell, found))
            chosen = cells[0][1].chosen
            if place == 1 and _same_lists(cells[0][1], found):
                for other in seeds[2:]:
                    self._tell(replace(cell, seed=other), True, 0.0)
                return Entry(variant, cells[:1], cells[0][1].tried, seedless=True)
        return Entry(variant, cells, cells[0][1].tried if cells else 0)

    def _fit_peer(self, section: Section, variant: Variant, cell: Cell, chosen: Mapping[str, Any] | None) -> Outcome:
        workplace = self._workplace(lambda epoch, ndcg: None)
        outcome = fit_peer(section.snapshot, section.split, variant, cell.seed, chosen, workplace)
        self.store.keep(cell, outcome)
        return outcome

    def _found_or_made(
        self, cell: Cell, claim: Cell, make: Callable[[], Outcome], *, wait: bool = False
    ) -> Outcome | None:
        """Return what is kept of a cell, or what `make` makes of it; None where it is left out, or left to others.

        Args:
            cell: which one.
            claim: what is claimed while it is made.
            make: returns what comes of it, and keeps it.
            wait: for others that are at it.
        """
        found = self.store.find(cell)
        there = found is not None
        if found is None:
            with self._claimed(claim, wait or self.waits) as ours:
                if not ours:
                    return None
                found = self.store.find(cell)  # others may have been at it until now
                there = found is not None
                found = found or make()
        self._tell(cell, there, found.seconds)
        return found

    def _workplace(self, on_epoch: Callable[[int, float], None]) -> Workplace:
        return Workplace(
            self.place.cache_folder,
            self.place.home / "checkpoints",
            self.config.threads,
            lambda record: on_epoch(record.epoch, record.ndcg),
        )

    @contextmanager
    def _claimed(self, cell: Cell, wait: bool) -> Iterator[bool]:
        """Yield whether a cell that is not there is to be computed here."""
        if not self.compute:
            yield False
            return
        with self.store.claimed(cell, wait=wait) as ours:
            self._left_to_others |= not ours
            yield ours

    def _tell(self, cell: Cell, there: bool, seconds: float) -> None:
        which = (cell.data, cell.protocol, cell.model, str(cell.seed), cell.key)
        if self.waits and which in self._told:  # when the section was looked at first
            return
        self._told.add(which)
        self.forecast.done(cell, seconds, there=there)
        self.watcher.on_cell(cell, there, seconds, self.forecast.left_s())


def _name(section: Section, variant: Variant) -> str:
    return f"{section.data}/{section.protocol}/{variant.name}"


def _same_lists(one: Outcome, other: Outcome) -> bool:
    return all((one.lists[key] == other.lists[key]).all() for key in one.lists)


@lru_cache
def _encoder(config: TextConfig) -> str | None:
    """Return the digest of an encoder's files; None where it can't be read, as whoever needs it says."""
    try:
        return encoder_digest(config)
    except (KgrankError, OSError):
        return None
