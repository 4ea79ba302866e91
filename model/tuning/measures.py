"""What a search asks of settings: validation NDCG@10, of our network and of its peers on the same footing."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from kg.snapshot import Snapshot
from model.baselines import BASELINES, fit_data
from model.compare.code_version import code_version
from model.config import TextConfig
from model.libraries import installed_libraries
from model.metrics import per_user
from model.pipeline import Listener, fit_model
from model.ranker import rank
from model.settings import RunSettings
from model.splits import Split
from model.text import encoder_digest
from model.tuning.space import overridden

Report = Callable[[int, float], None]
"""Called with the epoch and the value so far; raises where the trial is not worth going on with."""

Measure = Callable[[Mapping[str, Any], Report], float]
"""From changed settings to the value of the trial."""


def made_by(name: str, text: TextConfig) -> list[Any]:
    """Return what a value of a search comes out of beside its settings: code, libraries and encoder.

    Args:
        name: of a baseline, or of our network.
        text: the encoder's settings.

    Raises:
        ModelError: the encoder can't be read.
    """
    fitted_by = BASELINES[name].fit.__module__ if name in BASELINES else "model.pipeline"
    code = code_version([fitted_by, "model.ranker", "model.splits"], apart=("model.config", "model.settings"))
    return [code, installed_libraries(), encoder_digest(text)]


def network_measure(snapshot: Snapshot, split: Split, settings: RunSettings, text_cache_folder: Path) -> Measure:
    """Return what trains our network with changed settings; it reports after every epoch.

    It is never trained again on more than the split's training part, whatever `train.refit` says.
    """

    def measure(changed: Mapping[str, Any], report: Report) -> float:
        tried = settings.with_overrides({**changed, "train.refit": "none"})
        epochs = count(1)  # over all members of an ensemble
        trained = fit_model(
            snapshot,
            split,
            tried.model,
            tried.train,
            text_cache_folder,
            finetune_config=tried.finetune,
            listener=Listener(on_epoch=lambda record: report(next(epochs), record.ndcg)),
        )
        return trained.validation_ndcg

    return measure


def peer_measure(
    name: str, snapshot: Snapshot, split: Split, settings: RunSettings, text_cache_folder: Path
) -> Measure:
    """Return what fits a baseline with changed settings; fields are those of its own configuration."""
    baseline = BASELINES[name]
    baseline.check_needs(name)
    case = split.validation
    data = fit_data(
        snapshot,
        case.known,
        case,
        settings.model,
        text_cache_folder,
        seed=settings.train.seed,
        threads=settings.train.threads,
    )
    default = baseline.grid[0]

    def measure(changed: Mapping[str, Any], report: Report) -> float:
        ranked = rank(baseline.fit(data, overridden(default, changed)), case, 10)
        return float(per_user(ranked, case.truth_offsets, case.truth_product_index, (10,))["ndcg@10"].mean())

    return measure
