"""Queries as the text encoder reads them, by one compiled graph in int8 instead of torch's modules.

A query has a handful of tokens: torch calls some 300 operations for it and takes the interpreter for each, so that the
reading of one lasts 9 ms alone and 20 beside other calls. ONNX Runtime runs the same graph in one call that leaves the
interpreter to others, and in int8 reads a quarter of the bytes: 1.7 ms (`benchmarks/encoder_forms.py` has what it
costs). Products are read by torch, as training reads them.

A graph is compiled once for an encoder, in ten to thirty seconds, and kept in the cache; `kgrank train` does it for the
encoder it used. Queries are read one by one: int8 takes its scale from all that is read together.
"""

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor, nn

from model.config import TextConfig
from model.errors import ModelError
from model.text import TextEncoder, encoder_digest, load_tokenizer, pooled, shared_encoder
from server.compiled import export, keep_graph, kept_graph, quiet, reason_of, session

LEAST_LIKENESS = 0.98
"""Mean cosine of what int8 reads with what float32 reads; below it, the graph stays in float32. The built-in: .992."""

_SAMPLES = ("lamp", "dark roast coffee beans", "cordless drill 18v", "shampoo for dry hair", "green tea, 20 bags")
_FORMAT = 1  # raised whenever the same encoder is compiled otherwise
_LONGEST = 512  # tokens, as `TextConfig.max_tokens` has it

Float32s = npt.NDArray[np.float32]

_log = structlog.get_logger(__name__)


class Reader(Protocol):
    """What turns texts into features."""

    def encode(self, texts: Sequence[str]) -> Float32s:
        """Return unit-length features of texts `[N, W]`."""


class CompiledReader:
    """A compiled encoder with its tokenizer. Safe to share between threads.

    Args:
        graph: of `compiled_encoder`.
        config: which encoder, and how it reads.
        tokenizer: the encoder's.
    """

    def __init__(self, graph: bytes, config: TextConfig, tokenizer: Any) -> None:
        self._session = session(graph)
        self._tokenizer = tokenizer
        self._max_tokens = config.max_tokens
        self._tokenizing = threading.Lock()  # a fast tokenizer keeps its truncation in itself

    def encode(self, texts: Sequence[str]) -> Float32s:
        """Return unit-length features of texts `[N, W]`, N at least 1; an empty text has a feature too."""
        with self._tokenizing:
            tokens = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        return np.concatenate([self._session.run(None, {"tokens": np.array([each], np.int64)})[0] for each in tokens])


def query_reader(config: TextConfig, cache_folder: Path) -> Reader:
    """Return what reads queries with an encoder, compiled before or now; torch's encoder where it can't be compiled.

    This process keeps it: around a swap there are two.

    Args:
        config: which encoder, and how it reads.
        cache_folder: where compiled encoders are kept.

    Raises:
        ModelError: the encoder can't be loaded.
    """
    return _reader(_Wanted(config, cache_folder))


@dataclass(frozen=True)
class _Wanted:
    config: TextConfig
    cache_folder: Path = field(compare=False)


@lru_cache(maxsize=2)
def _reader(wanted: _Wanted) -> Reader:
    config = wanted.config
    try:
        graph = compiled_encoder(config, wanted.cache_folder)
    except ModelError:
        raise
    except Exception as error:  # torch, onnx and onnxscript each have errors of their own, of which none is fatal here
        _log.warning("query_reader_not_compiled", reason=reason_of(error), remedy="torch reads queries, slower")
        return shared_encoder(config)
    return CompiledReader(graph, config, load_tokenizer(config))


def compiled_encoder(config: TextConfig, cache_folder: Path) -> bytes:
    """Return an encoder's compiled graph, out of the cache or compiled now and kept there.

    Raises:
        ModelError: the encoder can't be loaded.
        Exception: it can't be compiled.
    """
    file = cache_folder / "queries" / f"{encoder_digest(config)}-{_FORMAT}.graph"
    graph = kept_graph(file)
    if graph is None:
        began = time.monotonic()
        graph = _compiled(config)
        keep_graph(file, graph)
        _log.info("query_reader_compiled", seconds=round(time.monotonic() - began, 1))
    return graph


def _compiled(config: TextConfig) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    encoder = TextEncoder(config.model_copy(update={"precision": "fp32"}))
    with tempfile.TemporaryDirectory(prefix="kgrank-") as folder, quiet():
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        length = torch.export.Dim("length", min=2, max=_LONGEST)
        example = torch.arange(2, 9)[None]
        export(_Feature(encoder.model).eval(), (example,), ({1: length},), input_names=["tokens"]).save(exact)
        quantize_dynamic(exact, small, per_channel=True, weight_type=QuantType.QInt8)
        graph = small.read_bytes()
        read = CompiledReader(graph, config, encoder.tokenizer).encode(_SAMPLES)
        likeness = float((read * encoder.encode(_SAMPLES)).sum(1).mean())
        if likeness >= LEAST_LIKENESS:
            return graph
        _log.info("query_reader_in_float32", likeness_of_int8=round(likeness, 4))
        return exact.read_bytes()


class _Feature(nn.Module):
    """One text's tokens `[1, T]` to its feature `[1, W]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the feature."""
        mask = torch.ones_like(tokens)
        return pooled(self.model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)
