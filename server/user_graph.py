"""Users as the networks of a model see them, by compiled graphs instead of torch's modules.

A call needs the vectors of a user or two, and a reason those of half a dozen histories with something left out. Of one
user's history torch makes a vector in 1.1 ms, its compiled graph in .12; of eight, with 20 interactions each, in 1.15
and .26 (one thread, width 64).
"""

from pathlib import Path

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from kg.tables import CODES
from model.history import EncodeLast, HistoryEncoder, RecentEvents
from model.repeat import RepeatScore, ScoreRepeats
from model.scorer import TrainedModel
from server.compiled import reason_of, with_weights

_FORMAT = 1  # raised whenever the graph of the same settings is compiled otherwise
_MOST_ROWS = 1_000_000
_EXAMPLE_LENGTHS = (3, 0, 1)

_log = structlog.get_logger(__name__)


def with_compiled_users(model: TrainedModel, cache_folder: Path) -> TrainedModel:
    """Return the same model with what encodes users compiled; as it is where that can't be.

    Args:
        model: of one network or several, of the same settings.
        cache_folder: where compiled graphs are kept.
    """
    folder = cache_folder / "users"
    repeats = [network.repeat for network in model.networks if network.repeat is not None]
    try:
        return model.with_quicker(
            [compiled_history(network.history, folder) for network in model.networks],
            [compiled_repeat(repeat, folder) for repeat in repeats],
        )
    except Exception as error:  # torch, onnx and onnxscript each have errors of their own, of which none is fatal here
        _log.warning("users_not_compiled", reason=reason_of(error), remedy="torch encodes users, slower")
        return model


def compiled_history(network: HistoryEncoder, folder: Path) -> EncodeLast:
    """Return a history network compiled.

    Raises:
        Exception: it can't be compiled.
    """
    dimension, (longest, heads) = network.query.in_features, network.relative.shape
    batch = torch.export.Dim("batch", min=1, max=_MOST_ROWS)
    both = {0: batch} | ({1: torch.export.Dim("width", min=1, max=longest)} if longest > 1 else {})
    file = folder / f"history-{dimension}-{heads}-{longest}-{len(CODES)}-{_FORMAT}.graph"
    compiled = with_weights(_Last(network), _histories(dimension, longest), (both, both, both, {0: batch}), file)
    return lambda products, events: compiled(products, events.type, events.day, events.length)


def compiled_repeat(network: RepeatScore, folder: Path) -> ScoreRepeats:
    """Return a repeat score compiled.

    Raises:
        Exception: it can't be compiled.
    """
    hidden, width = network.first.weight.shape
    features = torch.from_numpy(np.random.default_rng(0).uniform(0, 2, (5, width)).astype(np.float32))
    rows = torch.export.Dim("rows", max=_MOST_ROWS)
    return with_weights(network, (features,), ({0: rows},), folder / f"repeat-{width}-{hidden}-{_FORMAT}.graph")


class _Last(nn.Module):
    """A history network with its inputs as tensors."""

    def __init__(self, encoder: HistoryEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, products: Tensor, kind: Tensor, day: Tensor, length: Tensor) -> Tensor:
        """Return the users as known after their last interaction `[B, d]`."""
        return self.encoder.last(products, RecentEvents(kind, kind, day, length))


def _histories(dimension: int, longest: int) -> tuple[Tensor, ...]:
    """Return histories of several lengths, none among them, as `_Last` reads them."""
    drawn = np.random.default_rng(0)
    shape = (len(_EXAMPLE_LENGTHS), min(max(_EXAMPLE_LENGTHS), longest))
    products = torch.from_numpy(drawn.standard_normal((*shape, dimension), np.float32))
    kind = torch.from_numpy(drawn.integers(0, len(CODES), shape))
    day = torch.from_numpy(drawn.uniform(0, 90, shape).astype(np.float32))
    length = torch.tensor(_EXAMPLE_LENGTHS).clamp(max=shape[1])
    return nn.functional.normalize(products, dim=-1), kind, day, length
