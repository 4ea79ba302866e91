"""A comparison run: every cell that is not there yet is computed, one after the other, and kept.

Kill it at any moment and run it again: finished cells are found by the hash of their inputs, and a training under way
goes on from its last epoch. Several processes may run the same comparison: each claims the cells that it computes, and
leaves those of the others to them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from kg.errors import KgrankError
from model.compare.cells import Cell, CellStore, Outcome
from model.compare.config import CompareConfig
from model.compare.data import MissingDataError, read_snapshot
from model.compare.fitting import Workplace, fit_ours, fit_peer
from model.compare.forecast import Forecast
from model.compare.inputs import cell_of, training_cell
from model.compare.patterns import Patterns
from model.compare.sections import Entry, Place, Section, Skipped, Watcher
from model.compare.variants import Choose, Variant, variants
from model.errors import ModelError
from model.finetune.provenance import check_tuned_here
from model.splits import make_split

_Planned = tuple[Section, list[Variant]]
"""A section without its entries, and the models that are to have one."""


@dataclass
class _Search:
    """How a search went: how many of its options were tried, and why others could not be."""

    tried: int = 0
    failed: list[Skipped] = field(default_factory=list)


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
        ConfigError: the configuration names something that is not there, or a pattern matches nothing.
    """
    run_ = _Run(config, place, watcher or Watcher(), tuple(only), compute)
    planned: list[_Planned] = []
    for part in run_.parts():
        if isinstance(part, Skipped):
            yield part
        else:
            planned.append(part)
    run_.patterns.check(config)
    run_.watcher.on_plan(run_.forecast.total, run_.forecast.there)
    found = [run_.computed(*part) for part in planned]
    run_.waits = True  # for what was left to others
    for part, whole in zip(planned, found, strict=True):
        yield whole or run_.computed(*part) or part[0]


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
            run_.computed(*part)


class _Run:
    """What the sections of one run share."""

    def __init__(
        self, config: CompareConfig, place: Place, watcher: Watcher, only: tuple[str, ...], compute: bool
    ) -> None:
        self.config, self.place, self.watcher, self.compute = config, place, watcher, compute
        self.store = CellStore(place.home / "cells")
        self.forecast = Forecast()
        self.waits = False
        self._left_to_others = False
        self._told: set[tuple[str, ...]] = set()
        self._problems: dict[str, str] = {}
        self.patterns = Patterns(only)

    def variants(self, section: Section, choose: Choose) -> Iterator[Variant]:
        """Yield the models of a section; `choose` decides what comes of a search."""
        relations = tuple(section.snapshot.facts)
        yield from variants(self.config, self.place.config_folder, section.data, section.protocol, relations, choose)

    def parts(self) -> "Iterator[_Planned | Skipped]":
        """Yield each section with the models that are wanted there, or why it can't be had."""
        for data, source in self.config.data.items():
            place = self.place
            try:
                snapshot = read_snapshot(source, place.data_folder, place.config_folder, place.cache_folder)
            except MissingDataError as error:
                self.watcher.on_problem(f"data set {data} is skipped", error.problem)
                self.patterns.match_unread(self.config, data, self.config.protocols)
                yield Skipped(data, error.problem)
                continue
            for protocol, split_config in self.config.protocols.items():
                try:
                    split = make_split(snapshot, split_config)
                except ModelError as error:
                    self.watcher.on_problem(f"{data}/{protocol} is skipped", error.problem)
                    self.patterns.match_unread(self.config, data, [protocol])
                    yield Skipped(f"{data}/{protocol}", error.problem)
                    continue
                section = Section(data, source.title or data, protocol, snapshot, split)
                searched: dict[str, Variant] = {}
                models = list(self.variants(section, partial(self._kept_option, section, searched)))
                planned = [variant for variant in models if self.patterns.match(_name(section, variant))]
                asked = [variant for variant in planned if self._may_be_asked(section, variant)]
                needed = _lineages(asked)
                self.plan(section, asked, [each for name, each in searched.items() if name in needed])
                names = {variant.name for variant in planned}
                yield replace(section, left_out=[each for each in models if each.name not in names]), planned

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

    def plan(self, section: Section, asked: Sequence[Variant], searched: Sequence[Variant]) -> None:
        """Count the cells of a section, and learn from those that are there how long each takes."""

        def found(cell: Cell, ours: bool) -> Outcome | None:
            outcome = self.store.find(cell)
            self.forecast.expect(cell, outcome.seconds if outcome else None, ours=ours)
            return outcome

        for variant in searched:
            for overrides in variant.search:
                found(cell_of(section, variant.option(overrides), self.config.seeds[0]), ours=True)
        for variant in asked:
            ours, seeds = variant.baseline is None, self.config.seeds[: variant.seeds]
            first = found(cell_of(section, variant, seeds[0]), ours)
            chosen = first.chosen if first else None
            for place, seed in enumerate(seeds[1:], start=1):
                cell = cell_of(section, variant, seed, chosen)
                outcome = found(cell, ours)
                if place == 1 and not ours and first and outcome and _same_lists(first, outcome):
                    for other in seeds[2:]:
                        self.forecast.expect(replace(cell, seed=other), outcome.seconds, ours=False)
                    break

    def computed(self, section: Section, planned: Sequence[Variant]) -> Section | None:
        """Return a section with the models that are planned, computed or found.

        None where cells were left to other processes that are at them, unless the run `waits` for those.
        """
        if not planned:
            return section
        self._left_to_others = False
        names, needed = {variant.name for variant in planned}, _lineages(planned)
        searches: dict[str, _Search] = {}

        def choose(variant: Variant) -> Variant:
            if variant.name not in needed or _name(section, variant) in self._problems:
                return variant.option(variant.search[0])
            return self._chosen(section, variant, searches.setdefault(variant.name, _Search()))

        entries = []
        scored: dict[str, list[Variant]] = {}
        resolved = [variant for variant in self.variants(section, choose) if variant.name in names]
        for variant in resolved:  # what differs only in what a finished model is asked with, shares its training
            if variant.baseline is None and not variant.search:
                scored.setdefault(training_cell(section, variant, 0).key, []).append(variant)
        for variant in resolved:
            problem = variant.problem or self._problems.get(_name(section, variant))
            try:
                if problem:
                    entries.append(Entry(variant, problem=problem))
                elif variant.baseline is not None:
                    entries.append(self._peer(section, variant))
                else:
                    together = scored.get(training_cell(section, variant, 0).key, [variant])
                    if variant not in together:
                        together = [variant, *together]
                    tried = searches[variant.name].tried if variant.name in searches else 1
                    entries.append(self._ours(section, variant, together, tried))
            except KgrankError as error:
                self._has_problem(section, variant, error.problem)
                entries.append(Entry(variant, problem=error.problem))
        failed = [option for search in searches.values() for option in search.failed]
        return None if self._left_to_others else replace(section, entries=entries, failed=failed)

    def _kept_option(self, section: Section, searched: dict[str, Variant], variant: Variant) -> Variant:
        """Note a model with a search; return it with the best option if all are kept, else with the first."""
        searched[variant.name] = variant
        reached: list[tuple[float, Variant]] = []
        for option in map(variant.option, variant.search):
            outcome = self.store.find(cell_of(section, option, self.config.seeds[0]))
            if outcome is None:
                return variant.option(variant.search[0])
            reached.append((outcome.validation_ndcg or 0.0, option))
        return _best(reached)

    def _chosen(self, section: Section, variant: Variant, search: _Search) -> Variant:
        """Return a model with the option of its search that is best on validation, by the first seed."""
        reached: list[tuple[float, Variant]] = []
        for overrides in variant.search:
            option = variant.option(overrides)
            what = f"{_name(section, variant)} with {dict(overrides)}"
            # Waited for, if others are at it: what comes next depends on the best.
            try:
                found = self._trained(section, option, [option], self.config.seeds[0], wait=True)
            except KgrankError as error:
                self.watcher.on_problem(what, error.problem)
                search.failed.append(Skipped(what, error.problem))
                continue
            if found is None:
                return replace(option, problem=f"a search is not finished: {what} is not computed")
            search.tried += 1
            reached.append((found[1].validation_ndcg or 0.0, option))
        return _best(reached) if reached else variant.option(variant.search[0])

    def _ours(self, section: Section, variant: Variant, together: Sequence[Variant], tried: int) -> Entry:
        cells = [self._trained(section, variant, together, seed) for seed in self.config.seeds[: variant.seeds]]
        return Entry(variant, [cell for cell in cells if cell is not None], tried)

    def _trained(
        self, section: Section, variant: Variant, together: Sequence[Variant], seed: int, *, wait: bool = False
    ) -> tuple[Cell, Outcome] | None:
        """Return one seed of a model; with it, its like that are asked with noise are computed."""
        cells = {each.name: cell_of(section, each, seed) for each in together}
        plain = replace(variant, noise=variant.learned_noise, noise_at="training")

        def train() -> Outcome:
            return self._train(section, plain, cells[variant.name], [(cells[each.name], each) for each in together])

        # What shares a training is claimed with it.
        claim = training_cell(section, variant, seed)
        outcome = self._found_or_made(cells[variant.name], claim, train, wait=wait)
        return None if outcome is None else (cells[variant.name], outcome)

    def _train(self, section: Section, plain: Variant, cell: Cell, together: Sequence[tuple[Cell, Variant]]) -> Outcome:
        """Train a model for a cell and for those of its like that are not there, and keep all; return the cell's."""
        missing = {each.key: each for each, _ in together if each is cell or self.store.find(each) is None}
        asked = {each.key: variant.asked_noise for each, variant in together if each.key in missing}
        workplace = self._workplace(lambda epoch, ndcg: self.watcher.on_epoch(cell, epoch, ndcg))
        # By the training, not by what is asked of it: it goes on whatever is missing next time.
        training = training_cell(section, plain, cell.seed).key
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
            cell = cell_of(section, variant, seed, chosen)
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


def _lineages(models: Iterable[Variant]) -> set[str]:
    """Return the models whose settings go into these."""
    return {name for model in models for name in model.lineage}


def _best(reached: Sequence[tuple[float, Variant]]) -> Variant:
    """Return what reached most; the first of those that are alike."""
    return max(reached, key=lambda each: each[0])[1]


def _same_lists(one: Outcome, other: Outcome) -> bool:
    return all((one.lists[key] == other.lists[key]).all() for key in one.lists)
