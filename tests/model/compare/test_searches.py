"""A search in a comparison: what it chooses, what it needs, and what is said of one that is not finished."""

import shutil
from dataclasses import replace
from pathlib import Path

from model.compare.cells import CellStore
from model.compare.inputs import cell_of
from model.compare.report import build
from model.compare.running import run
from model.compare.sections import Section, Watcher
from tests.model.compare.small_comparison import Compared, Heard, section

OTHER = {"train.learning_rate": 1e-5}


def test_validation_chooses_among_a_search(compared: Compared) -> None:
    entry = next(entry for entry in section(compared).entries if entry.variant.name == "ours")
    assert entry.variant.settings.train.learning_rate == 1e-3
    badly = next(entry for entry in section(compared).entries if entry.variant.name == "asked-badly")
    assert badly.variant.settings == entry.variant.settings


def test_an_option_of_a_search_that_cannot_be_trained_is_told_and_left_out(compared: Compared, tmp_path: Path) -> None:
    ours = compared.config.models["ours"].model_copy(update={"search": ({"model.repeat": True}, {})})
    config = compared.config.model_copy(update={"models": compared.config.models | {"ours": ours}, "seeds": (1,)})
    heard = Heard()
    parts = list(run(config, replace(compared.place, home=tmp_path), heard.watcher()))
    made = next(part for part in parts if isinstance(part, Section))
    assert [bool(entry.problem) for entry in made.entries] == [False, False, False]
    chosen = next(entry for entry in made.entries if entry.variant.name == "ours")
    assert (chosen.tried, chosen.variant.chosen) == (1, {})
    assert any("ours with {'model.repeat': True}: model.repeat is learned by" in each for each in heard.problems)
    (told,) = (each for each in build(config, parts, "validation")["skipped"] if "model.repeat" in each["what"])
    assert told["what"] == "shop/next/ours with {'model.repeat': True}"
    assert told["why"].startswith("model.repeat is learned by")


def test_the_best_of_an_unfinished_search_is_not_reported_as_what_it_chose(compared: Compared, tmp_path: Path) -> None:
    place = replace(compared.place, home=tmp_path)
    shutil.copytree(compared.place.home / "cells", tmp_path / "cells")
    ours = next(entry.variant for entry in section(compared).entries if entry.variant.name == "ours")
    shutil.rmtree(tmp_path / "cells" / cell_of(section(compared), ours.option(OTHER), 1).key)
    document = build(compared.config, run(compared.config, place, compute=False), "test")
    assert {model["name"] for table in document["tables"] for model in table["models"]} == {"popularity"}
    why = {each["what"]: each["why"] for each in document["skipped"]}
    unfinished = f"a search is not finished: shop/next/ours with {OTHER} is not computed"
    assert why["shop/next/ours"] == why["shop/next/asked-badly"] == unfinished


def test_what_nobody_asked_for_is_not_searched(compared: Compared, tmp_path: Path) -> None:
    heard = Heard()
    parts = run(compared.config, replace(compared.place, home=tmp_path), heard.watcher(), only=["*/popularity"])
    made = next(part for part in parts if isinstance(part, Section))
    assert [entry.variant.name for entry in made.entries] == ["popularity"]
    assert heard.computed == ["popularity 1", "popularity 2"]
    assert not (tmp_path / "checkpoints").exists()


def test_a_variant_has_what_the_search_of_its_model_chose_when_it_alone_is_asked_for(compared: Compared) -> None:
    ours = compared.config.models["ours"].model_copy(update={"search": (OTHER, {})})
    config = compared.config.model_copy(update={"models": compared.config.models | {"ours": ours}})
    parts = run(config, compared.place, only=["*/asked-badly"], compute=False)
    (entry,) = next(part for part in parts if isinstance(part, Section)).entries
    assert entry.variant.settings.train.learning_rate == 1e-3
    assert len(entry.cells) == 3


def test_a_second_run_knows_that_all_is_there(compared: Compared) -> None:
    store = CellStore(compared.place.home / "cells")
    for search in (({}, OTHER), (OTHER, {})):  # what is chosen is the first, or is not
        ours = compared.config.models["ours"].model_copy(update={"search": search})
        config = compared.config.model_copy(update={"models": compared.config.models | {"ours": ours}})
        planned, told = [], []
        watcher = Watcher(
            on_plan=lambda *counts, planned=planned: planned.append(counts),
            on_cell=lambda cell, there, seconds, left, told=told: told.append(left),
        )
        part = next(part for part in run(config, compared.place, watcher) if isinstance(part, Section))
        assert all(store.find(cell) for entry in part.entries for cell, _ in entry.cells)
        # Two options, and three seeds of each model.
        assert planned == [(11, 11)]
        assert told == [0] * 11
