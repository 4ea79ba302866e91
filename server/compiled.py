"""Networks as compiled graphs: ONNX Runtime runs one in a single call that leaves the interpreter to others.

torch takes the interpreter for each of a network's operations, some 60 for a history and 300 for a query; for inputs as
small as those of a call that is most of the time. Graphs are made by torch's exporter and kept in the cache folder,
under a checksum.

A graph is that of a network's settings, where it is compiled `with_weights`: it is made once, in some ten seconds, for
all networks of the same settings, and each one's weights are put into it.
"""

import hashlib
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import structlog
import torch
from torch import Tensor, nn

_CLOSE = 1e-4  # what is computed in another order
_DIGEST_BYTES = 16
_ERRORS_ONLY = 3
_LONGEST_REASON = 200
_NOISY = ("", "torch.onnx._internal.exporter._registration")  # loggers that tell of what nobody can change

_log = structlog.get_logger(__name__)


class CompiledNetwork:
    """A network whose inputs and only output are tensors. Safe to share between threads.

    Args:
        graph: with its weights.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = session(graph)
        self._names = [each.name for each in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the network returns."""
        given = zip(self._names, (each.numpy() for each in inputs), strict=True)
        (output,) = self._session.run(None, dict(given))
        return torch.from_numpy(output)


def with_weights(
    network: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: tuple[Mapping[int, Any], ...], file: Path
) -> CompiledNetwork:
    """Return a network compiled, by the graph in a file, or by one that is made now and kept there.

    What is made is held against torch on the example before it is used.

    Args:
        network: in evaluation, not trained any more.
        example: inputs that it can be run with.
        dynamic_shapes: of each input, the dimensions that may differ from the example's.
        file: of the network's settings.

    Raises:
        Exception: it can't be compiled.
    """
    kept = kept_graph(file)
    made = None if kept is None else _checked(kept, network, example)
    if made is not None:
        return made
    began = time.monotonic()
    program = export(network, example, dynamic_shapes, optimize=False)  # folding would rename and merge weights
    graph: bytes = program.model_proto.SerializeToString()
    made = _checked(graph, network, example)
    if made is None:
        raise ValueError(f"{type(network).__name__}, compiled, says something else than torch")
    keep_graph(file, graph)
    _log.info("network_compiled", file=file.name, seconds=round(time.monotonic() - began, 1))
    return made


def _checked(graph: bytes, network: nn.Module, example: tuple[Tensor, ...]) -> CompiledNetwork | None:
    """Return a graph with a network's weights; None where it does not say what the network says."""
    import onnx

    model = onnx.load_from_string(graph)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    stored = {each.name: each for each in model.graph.initializer}
    if any(name not in stored or tuple(stored[name].dims) != value.shape for name, value in weights.items()):
        return None
    for name, value in weights.items():
        stored[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    compiled = CompiledNetwork(model.SerializeToString())
    with torch.inference_mode():
        close = torch.allclose(compiled(*example), network(*example), rtol=_CLOSE, atol=_CLOSE)
    return compiled if close else None


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """Return what runs a graph, on the caller's thread alone: what is run is too short to be shared."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def export(
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic_shapes: tuple[Mapping[int, Any], ...],
    *,
    input_names: Sequence[str] | None = None,
    optimize: bool = True,
) -> Any:
    """Return a network as torch's exporter has it, an `ONNXProgram`.

    Args:
        network: in evaluation.
        example: inputs that it can be run with.
        dynamic_shapes: of each input, the dimensions that may differ from the example's.
        input_names: names of the inputs in the graph; the exporter's choice when unset.
        optimize: fold what is constant, which renames and merges weights.
    """
    with quiet():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            verbose=False,
            optimize=optimize,
        )
    assert program is not None
    return program


def kept_graph(file: Path) -> bytes | None:
    """Return the graph that is kept in a file, None where there is none or it is damaged."""
    if not file.is_file():
        return None
    kept = file.read_bytes()
    if hashlib.blake2b(kept[_DIGEST_BYTES:], digest_size=_DIGEST_BYTES).digest() == kept[:_DIGEST_BYTES]:
        return kept[_DIGEST_BYTES:]
    _log.warning("compiled_graph_damaged", file=str(file), remedy="it is compiled again")
    return None


def keep_graph(file: Path, graph: bytes) -> None:
    """Keep a graph in a file; where that can't be, the next process compiles it again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{file.parent.name}.", dir=file.parent) as folder:
            partial = Path(folder) / file.name
            partial.write_bytes(hashlib.blake2b(graph, digest_size=_DIGEST_BYTES).digest() + graph)
            partial.replace(file)
    except OSError as error:
        _log.warning("compiled_graph_not_kept", file=str(file), error=error.strerror)


def reason_of(error: Exception) -> str:
    """Return an exporter's or compiler's error as one short line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_REASON]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep quiet what the compilers tell everybody."""

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    loggers = [logging.getLogger(name) for name in _NOISY]
    for each in loggers:
        each.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each in loggers:
            each.removeFilter(drop)
