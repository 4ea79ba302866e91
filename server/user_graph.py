"""Users as the networks of a model encode them, by a compiled graph instead of torch's modules.

A call needs the vectors of a user or two, and a reason those of a dozen histories with something left out: torch spends
a millisecond on calling 60 small operations, the compiled graph a tenth of it (`benchmarks/explain.py`).

The graph is that of the settings: it is compiled once for models of the same width, heads and length of history, in
some ten seconds, and each network's weights are put into it. What is made is held against torch before it is used.
"""

import time
from pathlib import Path

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from kg.tables import CODES
from model.history import EncodeLast, HistoryEncoder, RecentEvents
from model.scorer import TrainedModel
from server.compiled import export, keep_graph, kept_graph, reason_of, session

_FORMAT = 1  # raised whenever the graph of the same settings is compiled otherwise
_MOST_USERS = 1_000_000
_CLOSE = 1e-4  # of unit vectors, computed in another order
_PREFIX = "encoder."
_INPUTS = ("products", "type", "day", "length")
_EXAMPLE_LENGTHS = (3, 0, 1)

_log = structlog.get_logger(__name__)


class CompiledHistory:
    """An `EncodeLast`. Safe to share between threads.

    Args:
        graph: of `_exported`, with the weights of a network.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = session(graph)

    def __call__(self, products: Tensor, events: RecentEvents) -> Tensor:
        """Return the users as known after their last interaction `[B, d]`."""
        given = (products, events.type, events.day, events.length)
        (users,) = self._session.run(None, dict(zip(_INPUTS, (each.numpy() for each in given), strict=True)))
        return torch.from_numpy(users)


def with_compiled_users(model: TrainedModel, cache_folder: Path) -> TrainedModel:
    """Return the same model with its histories compiled; as it is where they can't be.

    Args:
        model: of one network or several, of the same settings.
        cache_folder: where compiled graphs are kept.
    """
    try:
        return model.with_encoders([compiled_history(network.history, cache_folder) for network in model.networks])
    except Exception as error:  # torch, onnx and onnxscript each have errors of their own, of which none is fatal here
        _log.warning("users_not_compiled", reason=reason_of(error), remedy="torch encodes users, slower")
        return model


def compiled_history(network: HistoryEncoder, cache_folder: Path) -> EncodeLast:
    """Return a network compiled, by the graph in the cache or by one that is made now and kept there.

    Raises:
        Exception: it can't be compiled.
    """
    file = cache_folder / "users" / f"{_settings(network)}-{_FORMAT}.graph"
    kept = kept_graph(file)
    made = None if kept is None else _checked(kept, network)
    if made is not None:
        return made
    began = time.monotonic()
    graph = _exported(network)
    made = _checked(graph, network)
    if made is None:
        raise ValueError("the compiled graph encodes histories otherwise than torch")
    keep_graph(file, graph)
    _log.info("users_compiled", seconds=round(time.monotonic() - began, 1))
    return made


def _settings(network: HistoryEncoder) -> str:
    """Return what two networks of the same graph have in common, as a file name."""
    length, heads = network.relative.shape
    return f"{network.query.in_features}-{heads}-{length}-{len(CODES)}"


def _checked(graph: bytes, network: HistoryEncoder) -> CompiledHistory | None:
    """Return a graph with a network's weights; None where it does not say what the network says."""
    made = _with_weights(graph, network)
    if made is None:
        return None
    compiled = CompiledHistory(made)
    with torch.inference_mode():
        example = _example(network)
        close = (compiled(*example) - network.last(*example)).abs().amax() <= _CLOSE
    return compiled if close else None


def _with_weights(graph: bytes, network: HistoryEncoder) -> bytes | None:
    """Return a graph with the weights of a network; None where it wants others."""
    import onnx

    model = onnx.load_from_string(graph)
    weights = {f"{_PREFIX}{name}": value.numpy() for name, value in network.state_dict().items()}
    stored = {each.name: each for each in model.graph.initializer}
    if any(name not in stored or tuple(stored[name].dims) != value.shape for name, value in weights.items()):
        return None
    for name, value in weights.items():
        stored[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    made: bytes = model.SerializeToString()
    return made


class _Last(nn.Module):
    """A history network with its inputs as tensors."""

    def __init__(self, encoder: HistoryEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, products: Tensor, kind: Tensor, day: Tensor, length: Tensor) -> Tensor:
        """Return the users."""
        return self.encoder.last(products, RecentEvents(kind, kind, day, length))


def _exported(network: HistoryEncoder) -> bytes:
    batch, longest = torch.export.Dim("batch", min=1, max=_MOST_USERS), len(network.relative)
    both = {0: batch} | ({1: torch.export.Dim("width", min=1, max=longest)} if longest > 1 else {})
    products, events = _example(network)
    example = (products, events.type, events.day, events.length)
    # Without folding, so that weights keep their names and can be changed.
    program = export(_Last(network), example, (both, both, both, {0: batch}), _INPUTS, optimize=False)
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def _example(network: HistoryEncoder) -> tuple[Tensor, RecentEvents]:
    """Return histories of several lengths, none among them."""
    drawn = np.random.default_rng(0)
    shape = (len(_EXAMPLE_LENGTHS), min(max(_EXAMPLE_LENGTHS), len(network.relative)))
    kind = torch.from_numpy(drawn.integers(0, len(CODES), shape))
    day = torch.from_numpy(np.sort(drawn.uniform(0, 90, shape).astype(np.float32))[:, ::-1].copy())
    products = torch.from_numpy(drawn.standard_normal((*shape, network.query.in_features), np.float32))
    length = torch.tensor(_EXAMPLE_LENGTHS).clamp(max=shape[1])
    return nn.functional.normalize(products, dim=-1), RecentEvents(kind, kind, day, length)
