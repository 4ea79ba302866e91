"""What a first caller would wait for is done before a model comes into service."""

from pathlib import Path
from typing import Any

import pytest

from server import engine_loading
from server.config import ServeSettings
from server.engine import Engine
from server.engine_loading import EngineLoader, Places
from server.journal import Journal
from server.models import ModelFolder
from server.reasons import reasons_for
from server.serving import Serving
from tests.server.shop import Shop


@pytest.mark.parametrize("search", [True, False])
def test_a_loaded_model_has_ranked_found_reasons_and_read_a_query(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: bool
) -> None:
    asked: list[str] = []
    found: list[int] = []

    def answer(engine: Engine, questions: Any) -> Any:
        asked.extend(question.query for question in questions)
        return plain_answer(engine, questions)

    def reasons(*given: Any, **more: Any) -> Any:
        made = reasons_for(*given, **more)
        found.append(sum(len(each) for each in made))
        return made

    plain_answer = Engine.answer
    monkeypatch.setattr(Engine, "answer", answer)
    monkeypatch.setattr(engine_loading, "reasons_for", reasons)
    places = Places(ModelFolder(shop.home / "artifacts"), shop.home / "snapshots", shop.home / "cache")
    serving = Serving(ServeSettings(search=search), places)
    journal = Journal(tmp_path / "journal.db")
    try:
        loader: EngineLoader = serving._loader
        loader.load(shop.versions[0], journal, [])
    finally:
        serving.close()
        journal.close()
    assert sum(found) > 0
    assert len(asked) > 3
    assert any(asked) == search
