import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kg.freeze import freeze
from kg.tables import CODES
from model.artifact import load_artifact
from model.history import HistoryEncoder, RecentEvents
from model.repeat import RepeatScore
from server.catalogue import LiveCatalogue
from server.config import ServeSettings
from server.engine_loading import EngineLoader, Places
from server.journal import Journal
from server.models import ModelFolder
from server.rulebook import RuleBook
from server.user_graph import compiled_history, compiled_repeat, with_compiled_users
from tests.server.shop import Shop, tables

WIDTH, HEADS, LENGTH = 16, 2, 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the graph of these networks."""
    folder = tmp_path_factory.mktemp("cache")
    compiled_history(network(1), folder)
    return folder


def network(seed: int, length: int = LENGTH) -> HistoryEncoder:
    """Return a network in which every part has a say."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = HistoryEncoder(WIDTH, HEADS, length, 0.1).eval().requires_grad_(False)
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return made


def asked(lengths: list[int]) -> tuple[Tensor, RecentEvents]:
    """Return random histories of these lengths."""
    drawn = np.random.default_rng(len(lengths))
    shape = (len(lengths), max(1, *lengths))
    kind = torch.from_numpy(drawn.integers(0, len(CODES), shape))
    day = torch.from_numpy(drawn.uniform(0, 300, shape).astype(np.float32))
    products = torch.from_numpy(drawn.standard_normal((*shape, WIDTH), np.float32))
    return products, RecentEvents(kind, kind, day, torch.tensor(lengths))


@pytest.mark.parametrize("lengths", [[1], [0], [6], [0, 6, 3, 1], [2] * 300])
def test_a_compiled_network_says_what_torch_says(cache: Path, lengths: list[int]) -> None:
    compiled = compiled_history(network(1), cache)
    torch.testing.assert_close(compiled(*asked(lengths)), network(1).last(*asked(lengths)), atol=1e-5, rtol=0)


def test_products_may_be_some_columns_of_more(cache: Path) -> None:
    products, events = asked([4, 2])
    beside = torch.cat([products, products], dim=2)[..., :WIDTH]
    compiled = compiled_history(network(1), cache)
    assert torch.equal(compiled(beside, events), compiled(products, events))


def test_another_network_of_the_same_settings_needs_no_compiling(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", refuse)
    other, given = network(2), asked([5, 3])
    torch.testing.assert_close(compiled_history(other, cache)(*given), other.last(*given), atol=1e-5, rtol=0)
    assert (other.last(*given) - network(1).last(*given)).abs().max() > 0.1


def damaged(graph: bytes) -> bytes:
    """Return half a graph."""
    return graph[: len(graph) // 2]


def outdated(graph: bytes) -> bytes:
    """Return a sound file with what is no graph of the network."""
    return hashlib.blake2b(b"", digest_size=16).digest()


@pytest.mark.parametrize("spoil", [damaged, outdated])
def test_a_graph_that_says_something_else_is_compiled_again(
    cache: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    (whole,) = cache.glob("history-*.graph")
    spoilt = tmp_path / whole.name
    spoilt.write_bytes(spoil(whole.read_bytes()))
    given = asked([3])
    torch.testing.assert_close(
        compiled_history(network(1), tmp_path)(*given), network(1).last(*given), atol=1e-5, rtol=0
    )
    assert spoilt.stat().st_size > 1000


def test_a_history_of_one_interaction_can_be_compiled(tmp_path: Path) -> None:
    short, given = network(3, length=1), asked([1, 0])
    torch.testing.assert_close(compiled_history(short, tmp_path)(*given), short.last(*given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [0, 1, 7, 3000])
def test_a_compiled_repeat_score_says_what_torch_says(cache: Path, rows: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        score = RepeatScore(13).eval().requires_grad_(False)
        features = torch.rand(rows, 13)
    torch.testing.assert_close(compiled_repeat(score, cache / "repeat")(features), score(features), atol=1e-5, rtol=0)


def test_where_nothing_can_be_compiled_torch_encodes_users(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", refuse)
    model = load_artifact(shop.home / "artifacts" / shop.versions[0]).scorer
    assert with_compiled_users(model, tmp_path) is model
    assert not list(tmp_path.rglob("*.graph"))


def test_a_model_ranks_alike_with_its_users_compiled(shop: Shop) -> None:
    model = load_artifact(shop.home / "artifacts" / shop.versions[0]).scorer
    histories = shop.snapshot.histories
    now_ms = np.full(len(histories), shop.snapshot.as_of_ms)
    compiled = with_compiled_users(model, shop.home / "cache")
    assert compiled is not model
    plain, quick = (each.encode_users(histories, now_ms) for each in (model, compiled))
    torch.testing.assert_close(quick.vectors, plain.vectors, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(quick.added_score, plain.added_score, atol=1e-4, rtol=1e-4)


def refuse(*_: Any, **__: Any) -> None:
    """Stand for an exporter that fails."""
    raise RuntimeError("an operator that nobody knows")


def test_a_model_that_is_served_on_another_snapshot_is_compiled_too(home: Path, shop: Shop) -> None:
    other = freeze(tables(60))
    other.save(home / "snapshots" / "other")
    places = Places(ModelFolder(home / "artifacts"), home / "snapshots", home / "cache", home / "snapshots" / "other")
    loader = EngineLoader(ServeSettings(), places, LiveCatalogue(home / "cache"), RuleBook())
    journal = Journal(home / "journal.db")
    engine = loader.load(shop.versions[0], journal, [])
    journal.close()
    assert engine.snapshot.content_hash == other.content_hash != engine.artifact.manifest.snapshot_hash
    scorer = engine.artifact.scorer
    assert scorer._encoders[0] != scorer.network.history.last
