"""From what a comparison declares to what is fitted: settings, facts and noise of every model on one data set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kg.snapshot import Snapshot
from model.case import SplitConfig
from model.compare.config import CompareConfig, ModelSpec
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


Choose = Callable[[Variant], RunSettings]
"""Returns the settings that validation chooses among those of a search."""


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
    split = config.protocols[protocol]
    chosen: dict[str, Variant] = {}

    def resolved(name: str) -> Variant:
        if name not in chosen:
            variant = _variant(name, config.models[name], resolved, config, folder, data, protocol, split)
            chosen[name] = _searched(variant, choose(variant)) if variant.search else variant
        return chosen[name]

    for name, spec in config.models.items():
        if (spec.data and data not in spec.data) or (spec.protocols and protocol not in spec.protocols):
            continue
        if not spec.each_relation:
            yield resolved(name)
            continue
        whole = resolved(name)
        left_out = whole.settings.model.exclude_relations
        for relation in relations:
            if relation not in left_out:
                settings = whole.settings.with_overrides({"model.exclude_relations": [*left_out, relation]})
                yield replace(whole, name=f"{name}:{relation}", title=f"without {relation}", settings=settings)
        if whole.settings.model.transitions:
            settings = whole.settings.with_overrides({"model.transitions": False})
            yield replace(whole, name=f"{name}:{TRANSITION}", title=f"without {TRANSITION}", settings=settings)


def _searched(variant: Variant, settings: RunSettings) -> Variant:
    """Return a model with the settings that were chosen for it, and with what they override."""
    options = (option for option in variant.search if variant.settings.with_overrides(option) == settings)
    return replace(variant, settings=settings, chosen=next(options, None))


def _variant(
    name: str,
    spec: ModelSpec,
    resolved: Callable[[str], Variant],
    config: CompareConfig,
    folder: Path,
    data: str,
    protocol: str,
    split: SplitConfig,
) -> Variant:
    baseline: str | None = spec.baseline
    if spec.like is not None:
        base = resolved(spec.like)
        baseline, settings = base.baseline, base.settings
    elif spec.config is not None:
        file = spec.config[data] if isinstance(spec.config, dict) else spec.config
        settings = read_run_settings(folder / file)
    else:
        reference = config.models.get(config.reference)
        settings = RunSettings()
        if reference is not None and reference.baseline is None:
            beside = _variant(config.reference, reference, resolved, config, folder, data, protocol, split)
            settings = beside.settings
    overrides = spec.overrides | spec.by_data.get(data, {}) | spec.by_protocol.get(protocol, {})
    return Variant(
        name=name,
        title=spec.title or name,
        group=spec.group,
        baseline=baseline,
        settings=settings.with_overrides(overrides).model_copy(update={"split": split}),
        graph=spec.graph,
        noise=spec.noise,
        noise_at=spec.noise_at,
        search=spec.search,
        trials=spec.trials or config.trials,
        seeds=min((count for count in (spec.seeds, config.data[data].seeds) if count), default=None),
        tried_before=spec.tried_before,
    )
