"""Networks as compiled graphs: ONNX Runtime runs one in a single call that leaves the interpreter to others.

torch takes the interpreter for each of a network's operations, some 60 for a history and 300 for a query; for inputs as
small as those of a call that is most of the time. Graphs are made by torch's exporter and kept in the cache folder,
under a checksum.
"""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import structlog
import torch
from torch import Tensor, nn

_DIGEST_BYTES = 16
_ERRORS_ONLY = 3
_LONGEST_REASON = 200
_NOISY = ("", "torch.onnx._internal.exporter._registration")  # loggers that tell of what nobody can change

_log = structlog.get_logger(__name__)


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
    input_names: Sequence[str],
    *,
    optimize: bool = True,
) -> Any:
    """Return a network as torch's exporter has it, an `ONNXProgram`.

    Args:
        network: in evaluation.
        example: inputs that it can be run with.
        dynamic_shapes: of each input, the dimensions that may differ from the example's.
        input_names: names of the inputs in the graph.
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
