"""A comparison run on the coffee shop: whole, gone on with, in part, beside others, and what is wrong in its file."""

import threading
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from kg.errors import ConfigError
from model.case import SplitConfig
from model.compare import fitting, inputs
from model.compare.cells import CellStore
from model.compare.config import CompareConfig
from model.compare.inputs import cell_of, training_cell
from model.compare.noise import NoiseConfig
from model.compare.report import build
from model.compare.running import help_out, run
from model.compare.sections import Place, Section, Skipped, Watcher
from model.config import TextConfig
from model.finetune.store import save_encoder
from tests.model.compare.small_comparison import SHOP, Compared, Heard, section
from tests.waiting import until


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def test_every_cell_is_computed_and_missing_data_is_told(compared: Compared) -> None:
    skipped = [part for part in compared.parts if isinstance(part, Skipped)]
    assert [part.what for part in skipped] == ["missing"]
    assert "nowhere.json.gz is not there" in skipped[0].why
    assert compared.heard.problems == [f"data set missing is skipped: {skipped[0].why}"]
    entries = {entry.variant.name: entry for entry in section(compared).entries}
    assert list(entries) == ["popularity", "ours", "asked-badly"]
    assert [cell.seed for cell, _ in entries["ours"].cells] == [1, 2, 3]
    assert entries["ours"].tried == 2
    # Popularity has no chance in it: its second seed says so, and the third is left out.
    assert entries["popularity"].seedless
    assert [cell.seed for cell, _ in entries["popularity"].cells] == [1]
    assert compared.heard.left[-1] == 0


def test_a_second_run_computes_nothing_and_says_the_same(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("model.compare.running.fit_ours", never)
    monkeypatch.setattr("model.compare.running.fit_peer", never)
    heard = Heard()
    again = list(run(compared.config, compared.place, heard.watcher()))
    assert not heard.computed
    tables = [build(compared.config, parts, "validation")["tables"] for parts in (compared.parts, again)]
    assert tables[0] == tables[1]


def test_what_is_asked_badly_shares_its_training(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    real = fitting.fit_model

    def counted(*arguments: Any, **settings: Any) -> Any:
        trained.append(arguments)
        return real(*arguments, **settings)

    monkeypatch.setattr(fitting, "fit_model", counted)
    place = Place(compared.place.config_folder, SHOP, compared.place.home / "other", compared.place.cache_folder)
    config = compared.config.model_copy(update={"seeds": (5,)})
    parts = list(run(config, place, only=["shop/next/ours", "shop/next/asked-badly"]))
    made = next(part for part in parts if isinstance(part, Section))
    assert [entry.variant.name for entry in made.entries] == ["ours", "asked-badly"]
    assert all(len(entry.cells) == 1 for entry in made.entries)
    # A goal against the best baseline is not met as long as one has not been asked.
    left_out = {variant.name for variant in made.left_out}
    assert left_out == set(config.models) - {"ours", "asked-badly"}
    document = build(config, parts, "validation")
    assert {f"shop/next/{name}" for name in left_out} <= {each["what"] for each in document["skipped"]}
    # Two settings are searched; the chosen one is asked cleanly from the search's own cell, and badly from one more.
    assert len(trained) == 3


def test_a_pattern_that_matches_nothing_is_refused(compared: Compared) -> None:
    for pattern in ("shop/next/popularty", "shop/*/ours:HAS_BRAND", "missing/next/theirs", "missing/cold/ours"):
        with pytest.raises(ConfigError, match=r"matches no model of this comparison") as told:
            list(run(compared.config, compared.place, only=["*/popularity", pattern], compute=False))
        assert repr(pattern) in told.value.problem
        assert "protocols: next; models: popularity, ours, asked-badly" in told.value.remedy
    # What may be on data that are not here can't be refused.
    assert list(run(compared.config, compared.place, only=["missing/next/ours:*"], compute=False))


def test_models_of_a_section_of_which_nothing_was_asked_for_are_named(compared: Compared) -> None:
    protocols = compared.config.protocols | {"new": SplitConfig()}
    config = compared.config.model_copy(update={"protocols": protocols})
    parts = list(run(config, compared.place, only=["shop/next/*"], compute=False))
    document = build(config, parts, "validation")
    not_asked = {each["what"] for each in document["skipped"] if each["why"] == "not asked for"}
    assert not_asked == {f"shop/new/{name}" for name in config.models}
    assert {table["protocol"] for table in document["tables"]} == {"next"}


def test_what_is_trained_again_for_the_test_does_not_answer_validation(compared: Compared, tmp_path: Path) -> None:
    model = {
        "ours": {"config": "base.toml", "overrides": {"train.refit": "known"}},
        "popularity": {"baseline": "popularity"},
    }
    config = CompareConfig.model_validate(
        compared.config.model_dump(exclude_unset=True) | {"models": model, "seeds": [1], "goals": []}
    )
    place = Place(compared.place.config_folder, SHOP, tmp_path, compared.place.cache_folder)
    plain = config.model_copy(
        update={"models": compared.config.models | {"ours": config.models["ours"].model_copy(update={"overrides": {}})}}
    )
    lists = []
    for each in (config, plain):
        made = next(part for part in run(each, place, only=["shop/next/ours"]) if isinstance(part, Section))
        lists.append(made.entries[0].cells[0][1].lists)
    again, once = lists
    assert (again[0, "validation"] == once[0, "validation"]).all()
    assert (again[0, "test"] != once[0, "test"]).any()
    learned = config.model_copy(
        update={"models": {"ours": config.models["ours"].model_copy(update={"overrides": {"train.refit": "all"}})}}
    )
    made = next(part for part in run(learned, place) if isinstance(part, Section))
    assert "it would learn the answers" in made.entries[0].problem
    held_out = {"cold": SplitConfig(protocol="cold-users", cold_events=(0, 1), repeats=True, cold_share=0.3)}
    cold = learned.model_copy(update={"protocols": held_out, "resamples": 100})
    made = next(part for part in run(cold, place) if isinstance(part, Section))  # where `refit` is left out
    assert not made.entries[0].problem


def test_a_peer_trained_by_steps_tells_its_learning_curve(compared: Compared, tmp_path: Path) -> None:
    config = CompareConfig.model_validate(
        compared.config.model_dump(exclude_unset=True)
        | {"models": {"lightgcn": {"baseline": "lightgcn", "trials": 2}}, "reference": "lightgcn", "goals": []}
    )
    place = Place(compared.place.config_folder, SHOP, tmp_path, compared.place.cache_folder)
    made = next(part for part in run(config, place) if isinstance(part, Section))
    table = build(config, [made], "validation")["tables"][0]
    (peer,) = table["models"]
    assert len(peer["curves"]) == len(made.entries[0].cells) == 3
    for (_, outcome), curve in zip(made.entries[0].cells, peer["curves"], strict=True):
        assert [epoch for epoch, _ in curve] == list(range(1, len(outcome.records) + 1))
        assert all(record["seconds"] > 0 for record in outcome.records)


def test_noise_in_both_is_learned_from_in_one_training_and_a_users_own_events_are_asked_with(
    compared: Compared,
) -> None:
    part = section(compared)
    (ours,) = (entry.variant for entry in part.entries if entry.variant.name == "ours")
    noise = NoiseConfig(titles=0.5, events=0.2, seed=3)
    learned, both = (replace(ours, noise=noise, noise_at=at) for at in ("training", "both"))
    assert (learned.learned_noise, learned.asked_noise) == (noise, None)
    assert (both.learned_noise, both.asked_noise) == (noise, NoiseConfig(events=0.2, seed=3))
    assert replace(both, noise=NoiseConfig(titles=0.5)).asked_noise is None
    assert training_cell(part, learned, 1).key == training_cell(part, both, 1).key


def test_another_encoder_in_the_same_folder_is_another_cell(compared: Compared, tmp_path: Path) -> None:
    part = section(compared)
    (ours,) = (entry.variant for entry in part.entries if entry.variant.name == "ours")
    folder, keys = tmp_path / "encoder", set()
    folder.mkdir()
    (folder / "model.safetensors").touch()
    settings = ours.settings.with_overrides({"model.text.encoder": str(folder)})
    for content in ("{}", '{"fine-tuned": true}'):
        (folder / "config.json").write_text(content, encoding="utf-8")
        inputs._encoder.cache_clear()  # as another process begins
        keys.add(cell_of(part, replace(ours, settings=settings), 1).key)
    assert len(keys) == 2


def test_an_encoder_that_was_fine_tuned_elsewhere_is_not_compared(compared: Compared, tmp_path: Path) -> None:
    made_of = {"encoder": TextConfig().encoder, "snapshot": "0" * 32, "split": {}}
    tuned = save_encoder(tmp_path, lambda folder: write(folder / "model.safetensors", "{}"), "a-run", {}, made_of)
    ours = compared.config.models["ours"].model_copy(update={"overrides": {"model.text.encoder": str(tuned.folder)}})
    config = compared.config.model_copy(update={"models": {"ours": ours}})
    heard = Heard()
    (part,) = [part for part in run(config, compared.place, heard.watcher()) if isinstance(part, Section)]
    (entry,) = part.entries
    assert "was fine-tuned on snapshot 000000000000" in entry.problem
    assert not entry.cells
    assert not heard.computed
    assert sum("shop/next/ours" in problem for problem in heard.problems) == 1


def test_without_computing_what_is_missing_is_left_out(compared: Compared, tmp_path: Path) -> None:
    place = Place(compared.place.config_folder, SHOP, tmp_path, compared.place.cache_folder)
    heard = Heard()
    document = build(compared.config, run(compared.config, place, heard.watcher(), compute=False), "validation")
    assert not heard.computed
    assert document["tables"] == []
    assert {part["what"] for part in document["skipped"]} >= {"missing", "shop/next/ours", "shop/next/popularity"}


def test_what_another_process_is_at_is_left_to_it_and_waited_for_in_the_end(compared: Compared, tmp_path: Path) -> None:
    place = Place(compared.place.config_folder, SHOP, tmp_path, compared.place.cache_folder)
    models = {"popularity": compared.config.models["popularity"]}
    config = compared.config.model_copy(update={"models": models, "reference": "popularity"})
    first = next(cell for cell, _ in section(compared).entries[0].cells)
    store = CellStore(tmp_path / "cells")
    heard = Heard()
    with store.claimed(first, wait=False):
        help_out(config, place)
    assert store.find(first) is None

    def finish() -> None:
        until(lambda: heard.problems != [])  # the run has begun
        store.keep(first, section(compared).entries[0].cells[0][1])
        claim.close()

    claim = ExitStack()
    claim.enter_context(store.claimed(first, wait=False))
    other = threading.Thread(target=finish)
    other.start()
    parts = list(run(config, place, heard.watcher()))
    other.join()
    whole = next(part for part in parts if isinstance(part, Section))
    assert [cell.seed for cell, _ in whole.entries[0].cells] == [1]
    assert heard.found == ["popularity 1", "popularity 3"]  # the first was waited for; the third is as the second
    assert heard.computed == ["popularity 2"]


def test_a_model_or_data_that_take_long_may_take_fewer_seeds(compared: Compared) -> None:
    fewer = compared.config.models["asked-badly"].model_copy(update={"seeds": 2})
    config = compared.config.model_copy(update={"models": compared.config.models | {"asked-badly": fewer}})
    section = next(part for part in run(config, compared.place, Watcher(), compute=False) if isinstance(part, Section))
    cells = {entry.variant.name: len(entry.cells) for entry in section.entries}
    assert cells == {"popularity": 1, "ours": 3, "asked-badly": 2}
    large = {"shop": config.data["shop"].model_copy(update={"seeds": 1})}
    config = config.model_copy(update={"data": large})
    section = next(part for part in run(config, compared.place, Watcher(), compute=False) if isinstance(part, Section))
    assert {entry.variant.name: len(entry.cells) for entry in section.entries} == dict.fromkeys(cells, 1)


def test_a_library_that_is_not_installed_has_no_version(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> str:
        if library == "implicit":
            raise PackageNotFoundError(library)
        return version(library)

    monkeypatch.setattr("model.libraries.version", missing)
    parts = run(compared.config, compared.place, only=["shop/next/popularity"], compute=False)
    assert parts
