"""Text encoders of the models in service: each is loaded once; one that can't be keeps nobody from what changed."""

import asyncio
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
import torch

from kg.extending import CatalogueChange
from kg.tables import FACTS, PRODUCTS
from model.config import TextConfig
from model.errors import ModelError
from model.text import TextEncoder, shared_encoder
from server.question import Question
from server.traffic import Share, Traffic
from tests.server.running import serving_of
from tests.server.shop import Shop


def changed(product_id: str, title: str, price: float | None = None) -> CatalogueChange:
    named = {"product_id": product_id, "title": title, "description": "", "brand": "Acme", "category": ["Things"]}
    row = {**named, "price": price, "available": None, "attributes": []}
    return CatalogueChange(pa.Table.from_pylist([row], PRODUCTS), FACTS.empty_table(), ("product-07",))


def readers(home: Path, shop: Shop, count: int) -> list[str]:
    """Make models that read texts each with an encoder of its own; return their versions."""
    artifacts, versions = home / "artifacts", []
    for number in range(count):
        versions.append(f"reader-{number}")
        shutil.copytree(artifacts / shop.versions[0], artifacts / versions[-1])
        path = artifacts / versions[-1] / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["model_version"] = versions[-1]
        manifest["config"]["model"]["text"]["max_tokens"] = 40 + number
        path.write_text(json.dumps(manifest))
    return versions


def test_an_encoder_of_each_model_in_service_is_loaded_once(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []  # of which this process keeps the last two, whoever needs them

    def counted(config: TextConfig) -> TextEncoder:
        loads.append(config.max_tokens)
        return shared_encoder(config)

    active, *trials = readers(home, shop, 3)

    async def run() -> None:
        with serving_of(home, search=False) as (serving, journal):
            shares = tuple(Share(version, 10.0) for version in trials)
            await serving.change_traffic(lambda _: Traffic(active, shares), journal)
            monkeypatch.setattr("server.catalogue.shared_encoder", counted)
            for price in (1.0, 2.0, 3.0):
                assert await serving.catalogue_changed(changed("kettle", "Steel kettle", price=price))
            await serving.prepare_to_grow()

    asyncio.run(run())
    assert sorted(loads) == [40, 41, 42]


def test_a_model_whose_encoder_can_t_be_loaded_takes_what_needs_none_and_the_others_take_all(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, broken = readers(home, shop, 2)

    def failing(config: TextConfig) -> TextEncoder:
        if config.max_tokens == 41:
            raise ModelError("its folder is gone", "Put it back.")
        return shared_encoder(config)

    async def run() -> None:
        with serving_of(home, search=False) as (serving, journal):
            await serving.change_traffic(lambda _: Traffic(active, (Share(broken, 50.0),)), journal)
            monkeypatch.setattr("server.catalogue.shared_encoder", failing)
            with structlog.testing.capture_logs() as logged:
                assert await serving.catalogue_changed(changed("kettle", "Steel kettle"))
                assert await serving.catalogue_changed(changed("product-02", "Thing two", price=7.0))
                assert await serving.catalogue_changed(
                    changed("product-02", "Thing two", price=77.0)
                )  # no text to read
            told = [each["model_version"] for each in logged if each["event"] == "texts_not_read"]
            assert told == [broken, broken]
            texts = {}
            for version, engine in serving.lineup.engines.items():
                assert engine.snapshot.catalogue["price"].to_pylist()[2] == 77.0
                assert "product-07" not in engine.snapshot.products
                ranking = await serving.answer(engine, Question("user-01", 91, exclude_seen=False))
                assert sorted(ranking.product_index) == [each for each in range(91) if each != 7]
                assert torch.isfinite(torch.from_numpy(ranking.score)).all()
                scorer = engine.artifact.scorer
                texts[version] = scorer.matrix[90, scorer.blocks["text"]]
            assert texts[active].norm() == pytest.approx(1, abs=1e-3)
            assert not texts[broken].any()

    asyncio.run(run())


def test_a_model_whose_encoder_can_t_be_loaded_comes_into_service_over_a_changed_catalogue(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(config: TextConfig) -> TextEncoder:
        raise ModelError("its folder is gone", "Put it back.")

    async def run() -> None:
        with serving_of(home, search=False) as (serving, journal):
            await serving.change_traffic(lambda _: Traffic(shop.versions[0]), journal)
            assert await serving.catalogue_changed(changed("kettle", "Steel kettle"))
            monkeypatch.setattr("server.catalogue.shared_encoder", failing)
            (broken,) = readers(home, shop, 1)
            with structlog.testing.capture_logs() as logged:
                engine = (await serving.change_traffic(lambda _: Traffic(broken), journal)).active
            assert [each["model_version"] for each in logged if each["event"] == "texts_not_read"] == [broken]
            assert "product-07" not in engine.snapshot.products
            ranking = await serving.answer(engine, Question("user-01", 91, exclude_seen=False))
            assert sorted(ranking.product_index) == [each for each in range(91) if each != 7]
            monkeypatch.undo()
            await serving.prepare_to_grow()
            scorer = serving.engine.artifact.scorer
            assert scorer.matrix[90, scorer.blocks["text"]].norm() == pytest.approx(1, abs=1e-3)

    asyncio.run(run())
