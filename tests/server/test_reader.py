from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import TextConfig
from model.text import TextEncoder
from server.search import reader
from server.search.reader import CompiledReader, query_reader
from tests.model.tiny_encoder import tiny_encoder

QUERIES = ["green tea", "cordless power drill 18v with two batteries", "", "tea"]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[TextConfig]:
    """A small encoder that no other test has compiled."""
    reader._reader.cache_clear()
    yield TextConfig(encoder=str(tiny_encoder(tmp_path / "tiny")))
    reader._reader.cache_clear()


def test_the_built_in_encoder_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    compiled = query_reader(TextConfig(), tmp_path)
    exact = TextEncoder(TextConfig(precision="fp32")).encode(QUERIES)
    features = compiled.encode(QUERIES)
    assert isinstance(compiled, CompiledReader)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert (features * exact).sum(1).min() > 0.97


def test_a_query_reads_alike_whatever_is_read_beside_it(tiny: TextConfig, tmp_path: Path) -> None:
    compiled = query_reader(tiny, tmp_path)
    together = compiled.encode(QUERIES)
    for row, query in enumerate(QUERIES):
        np.testing.assert_array_equal(compiled.encode([query])[0], together[row])


def test_long_queries_are_cut_as_texts_are(tiny: TextConfig, tmp_path: Path) -> None:
    compiled = query_reader(tiny, tmp_path)
    assert isinstance(compiled, CompiledReader)
    once, twice = compiled.encode(["tea " * tiny.max_tokens, "tea " * 2 * tiny.max_tokens])
    np.testing.assert_array_equal(once, twice)


def test_an_encoder_is_compiled_once(tiny: TextConfig, tmp_path: Path) -> None:
    first = query_reader(tiny, tmp_path).encode(QUERIES)
    (file,) = (tmp_path / "queries").iterdir()
    made = file.stat().st_mtime_ns
    reader._reader.cache_clear()
    np.testing.assert_array_equal(query_reader(tiny, tmp_path).encode(QUERIES), first)
    assert file.stat().st_mtime_ns == made


def test_a_damaged_graph_is_compiled_again(tiny: TextConfig, tmp_path: Path) -> None:
    first = query_reader(tiny, tmp_path).encode(QUERIES)
    (file,) = (tmp_path / "queries").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    reader._reader.cache_clear()
    np.testing.assert_array_equal(query_reader(tiny, tmp_path).encode(QUERIES), first)
    assert file.read_bytes() == whole


def test_where_int8_reads_otherwise_the_graph_stays_in_float32(
    tiny: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LEAST_LIKENESS", 2)  # nothing is as like as that
    features = query_reader(tiny, tmp_path).encode(QUERIES)
    in_float32 = TextEncoder(tiny.model_copy(update={"precision": "fp32"}))  # some processors prefer bf16
    np.testing.assert_allclose(features, in_float32.encode(QUERIES), atol=1e-5)


def test_an_encoder_that_can_not_be_compiled_is_read_by_torch(
    tiny: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("an operator that nobody knows")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    assert isinstance(query_reader(tiny, tmp_path), TextEncoder)
    assert not (tmp_path / "queries").exists()
