"""From what a comparison declares to what is fitted: settings, facts and noise of every model on one data set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kg.snapshot import Snapshot
from model.compare.config import CompareConfig
from model.compare.noise import NoiseConfig, noisy_snapshot, shuffled_facts, without_facts
from model.graph import TRANSITION
from model.settings import RunSettings, read_run_settings


@dataclass(frozen=True)
class Variant:
    """One model of a comparison, on one data set in one protocol.

    Args:
        name: unique in the comparison.
        title: what a report calls it.
        group: the table that it stands in.
        baseline: the baseline that it is, None for ours.
        settings: of ours; for a baseline, those of the model that it stands beside: text encoder and relations.
        graph: which facts it sees.
        noise: what is wrong with the data.
        noise_at: in what is learned from, in what a finished model is asked with, or in both.
        search: overrides to choose from.
        trials: configurations tried for a baseline; its grid when None.
        seeds: the first so many seeds are taken; all when None.
        tried_before: configurations tried outside of the run.
        chosen: the overrides that were chosen, where there was a search.
        lineage: the models of the file that its settings come from: itself, what it is like, and so on.
        problem: why its settings can't be told, where what they come from has a search that is not finished.
    """

    name: str
    title: str
    group: str
    baseline: str | None
    settings: RunSettings
    graph: Literal["true", "shuffled", "none"] = "true"
    noise: NoiseConfig | None = None
    noise_at: Literal["training", "scoring", "both"] = "training"
    search: tuple[Mapping[str, object], ...] = ()
    trials: int | None = None
    seeds: int | None = None
    tried_before: int = 0
    chosen: Mapping[str, object] | None = None
    lineage: tuple[str, ...] = ()
    problem: str = ""

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Return what it learns from: the facts that it may see, and noise in training."""
        if self.graph == "shuffled":
            snapshot = shuffled_facts(snapshot)
        elif self.graph == "none":
            snapshot = without_facts(snapshot)
        return noisy_snapshot(snapshot, self.learned_noise) if self.learned_noise else snapshot

    @property
    def learned_noise(self) -> NoiseConfig | None:
        """The noise in what is learned from."""
        return self.noise if self.noise_at != "scoring" else None

    @property
    def asked_noise(self) -> NoiseConfig | None:
        """The noise in what a finished model is asked with, beside that of the catalogue that it learned from."""
        if self.noise is None or self.noise_at == "training":
            return None
        if self.noise_at == "scoring":
            return self.noise
        return NoiseConfig(events=self.noise.events, seed=self.noise.seed) if self.noise.events else None

    def option(self, overrides: Mapping[str, object]) -> "Variant":
        """Return it with one of the options of its search."""
        return replace(self, settings=self.settings.with_overrides(overrides), chosen=overrides)


Choose = Callable[[Variant], Variant]
"""Returns a model with the option of its search that validation chooses."""


def variants(
    config: CompareConfig, folder: Path, data: str, protocol: str, relations: tuple[str, ...], choose: Choose
) -> Iterator[Variant]:
    """Yield the models of a comparison on one data set in one protocol, in the order of the file.

    Args:
        config: the comparison.
        folder: what its paths are relative to.
        data: name of the data set.
        protocol: name of the protocol.
        relations: those of the data set, for the variants that leave each one out.
        choose: called once for every model with a search, before its variants are made.

    Raises:
        ConfigError: a configuration file is not there, or an override is wrong.
    """
    chosen: dict[str, Variant] = {}

    def made(name: str, like: Callable[[str], Variant]) -> Variant:
        return _variant(name, like, plain, config, folder, data, protocol)

    def plain(name: str) -> Variant:
        return made(name, plain)

    def resolved(name: str) -> Variant:
        if name not in chosen:
            variant = made(name, resolved)
            chosen[name] = choose(variant) if variant.search else variant
        return chosen[name]

    for name, spec in config.models.items():
        if (spec.data and data not in spec.data) or (spec.protocols and protocol not in spec.protocols):
            continue
        if not spec.each_relation:
            yield resolved(name)
            continue
        whole = replace(resolved(name), search=())
        left_out = whole.settings.model.exclude_relations
        for relation in relations:
            if relation not in left_out:
                settings = whole.settings.with_overrides({"model.exclude_relations": [*left_out, relation]})
                yield replace(whole, name=f"{name}:{relation}", title=f"without {relation}", settings=settings)
        if whole.settings.model.transitions:
            settings = whole.settings.with_overrides({"model.transitions": False})
            yield replace(whole, name=f"{name}:{TRANSITION}", title=f"without {TRANSITION}", settings=settings)


def _variant(
    name: str,
    like: Callable[[str], Variant],
    plain: Callable[[str], Variant],
    config: CompareConfig,
    folder: Path,
    data: str,
    protocol: str,
) -> Variant:
    """Return a model before its own search.

    Args:
        name: of the model.
        like: gives the one that it is a variant of.
        plain: gives any model without searches: a baseline has the reference's text encoder and relations.
        config: the comparison.
        folder: what its paths are relative to.
        data: name of the data set.
        protocol: name of the protocol.
    """
    spec = config.models[name]
    base = like(spec.like) if spec.like is not None else None
    if base is not None:
        settings = base.settings
    elif spec.config is not None:
        file = spec.config[data] if isinstance(spec.config, dict) else spec.config
        settings = read_run_settings(folder / file)
    elif config.reference and config.models[config.root(config.reference)].baseline is None:
        settings = plain(config.reference).settings
    else:
        settings = RunSettings()
    overrides = spec.overrides | spec.by_data.get(data, {}) | spec.by_protocol.get(protocol, {})
    seeds = (spec.seeds or (base.seeds if base else None), config.data[data].seeds)
    return Variant(
        name=name,
        title=spec.title or name,
        group=spec.group,
        baseline=base.baseline if base else spec.baseline,
        settings=settings.with_overrides(overrides).model_copy(update={"split": config.protocols[protocol]}),
        graph=spec.graph,
        noise=spec.noise,
        noise_at=spec.noise_at,
        search=spec.search,
        trials=spec.trials or (base.trials if base else config.trials),
        seeds=min((count for count in seeds if count), default=None),
        tried_before=spec.tried_before,
        lineage=(name, *(base.lineage if base else ())),
        problem=base.problem if base else "",
    )
