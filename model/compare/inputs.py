"""What a cell depends on: data, split, settings, noise, seed, libraries, and the code that it runs through."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from kg.errors import KgrankError
from model.baselines import BASELINES
from model.compare.cells import DEPTH, Cell
from model.compare.code_version import code_version
from model.compare.sections import Section
from model.compare.variants import Variant
from model.config import TextConfig
from model.libraries import installed_libraries
from model.text import encoder_digest

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


def cell_of(section: Section, variant: Variant, seed: int, chosen: Mapping[str, Any] | None = None) -> Cell:
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
        inputs |= {"settings": settings, "code": _our_code()}
    else:
        inputs |= {
            "baseline": variant.baseline,
            "text": settings["model"]["text"],
            "exclude_relations": settings["model"]["exclude_relations"],
            "trials": variant.trials,
            "chosen": chosen,
            "code": _code_of_baseline(variant.baseline),
        }
    return Cell(section.data, section.protocol, variant.name, seed, inputs)


def training_cell(section: Section, variant: Variant, seed: int) -> Cell:
    """Return the cell of a model that is asked without noise: those that differ in nothing else share its training."""
    return cell_of(section, replace(variant, noise=variant.learned_noise, noise_at="training"), seed)


@lru_cache
def _our_code() -> str:
    return code_version(
        ["model.pipeline", "model.ranker", "model.refresh", "model.splits", "model.compare.noise"],
        alone=["model.compare.fitting"],
        apart=_APART,
    )


@lru_cache
def _code_of_baseline(name: str) -> str:
    return code_version(
        [BASELINES[name].fit.__module__, "model.ranker", "model.splits", "model.compare.noise"],
        alone=["model.compare.fitting", "model.evaluate", "model.baselines"],
        apart=(*_APART, *_LEARNING),
    )


@lru_cache
def _encoder(config: TextConfig) -> str | None:
    """Return the digest of an encoder's files; None where it can't be read, as whoever needs it says."""
    try:
        return encoder_digest(config)
    except (KgrankError, OSError):
        return None
