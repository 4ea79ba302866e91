"""Cells: named by what their result depends on, kept whole or not at all; and the code version among their inputs."""

from pathlib import Path

import numpy as np
import pytest

from model.compare import code_version as versions
from model.compare.cells import Cell, CellStore, Outcome
from model.compare.forecast import Forecast
from model.errors import ModelError

LISTS = {(0, "validation"): np.array([[1, 2]], np.int32), (1, "test"): np.array([[3, -1]], np.int32)}
OUTCOME = Outcome(LISTS, 2.5, {"best_epoch": 3}, 4, ({"epoch": 1, "ndcg": 0.5},), 0.5, "2026-01-01")


def cell(model: str = "m", **inputs: object) -> Cell:
    return Cell("d", "p", model, 1, {"snapshot": "x", **inputs})


def test_a_cell_is_named_by_its_inputs_alone() -> None:
    assert cell("one").key == cell("other").key
    assert cell(seed=1).key != cell(seed=2).key


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells")
    assert store.find(cell()) is None
    store.keep(cell(), OUTCOME)
    found = store.find(cell())
    assert found is not None
    assert {key: array.tolist() for key, array in found.lists.items()} == {
        key: array.tolist() for key, array in LISTS.items()
    }
    for name in ("seconds", "chosen", "tried", "records", "validation_ndcg", "created_at"):
        assert getattr(found, name) == getattr(OUTCOME, name)
    store.keep(cell(), OUTCOME)  # again, over the first
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [cell().key]


def test_a_cell_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    with store.claimed(cell(), wait=False) as first, store.claimed(cell(), wait=False) as second:
        assert (first, second) == (True, False)
        with store.claimed(cell(seed=2), wait=False) as other:
            assert other
    with store.claimed(cell(), wait=True) as again:
        assert again


def test_a_folder_where_nothing_can_be_claimed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file")
    with pytest.raises(ModelError, match="can't be claimed"), CellStore(tmp_path / "cells").claimed(cell(), wait=True):
        pass


@pytest.mark.parametrize("name", ["cell.json", "lists.safetensors"])
def test_a_damaged_cell_is_no_cell(name: str, tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.keep(cell(), OUTCOME)
    file = tmp_path / cell().key / name
    file.write_bytes(file.read_bytes()[:20])
    assert store.find(cell()) is None


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text(
        '"""Doc."""\nfrom model.two import two\n\ndef f():\n    """Doc."""\n    return two\n'
    )
    (folder / "two.py").write_text("two = 2\n")
    monkeypatch.setattr(versions, "_SOURCE", tmp_path)
    return folder


def version(**parts: list[str]) -> str:
    versions._module.cache_clear()
    try:
        return versions.code_version(["model.one"], **parts)
    finally:
        versions._module.cache_clear()


def test_comments_layout_and_docstrings_do_not_change_the_code_version(sources: Path) -> None:
    before = version()
    (sources / "one.py").write_text(
        '"""Other."""\n\nfrom model.two import two  # why\n\n\ndef f():\n    """New."""\n    return (two)\n'
    )
    assert version() == before
    (sources / "one.py").write_text("from model.two import two\n\ndef f():\n    return two + 1\n")
    assert version() != before


def test_what_is_imported_counts_unless_it_is_set_apart(sources: Path) -> None:
    whole, apart = version(), version(apart=["model.two"])
    (sources / "two.py").write_text("two = 3\n")
    assert version() != whole
    assert version(apart=["model.two"]) == apart


def test_the_code_of_the_real_model_is_followed() -> None:
    assert versions.code_version(["model.pipeline"]) != versions.code_version(["model.ranker"])
    assert versions.module_file("model.baselines") is not None
    assert versions.module_file("model.no_such") is None


def test_time_left_is_that_of_the_like() -> None:
    forecast = Forecast()
    first, second = cell("a", seed=1), cell("a", seed=2)
    other = cell("b")
    forecast.expect(first, None, ours=True)
    forecast.expect(second, None, ours=True)
    forecast.expect(other, 7.0, ours=False)  # is there
    assert (forecast.total, forecast.there) == (3, 1)
    assert forecast.left_s() is None
    forecast.done(first, 10.0, there=False)
    assert forecast.left_s() == 10
    forecast.done(other, 7.0, there=True)
    assert forecast.left_s() == 10
    forecast.done(second, 12.0, there=False)
    assert forecast.left_s() == 0
