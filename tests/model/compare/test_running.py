"""A comparison run on the coffee shop: whole, gone on with, in part, beside others, and what is wrong in its file."""

import threading
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kg.errors import ConfigError
from model.case import SplitConfig
from model.compare import fitting, running
from model.compare.cells import CellStore
from model.compare.config import CompareConfig, read_comparison
from model.compare.noise import NoiseConfig
from model.compare.report import build
from model.compare.running import help_out, run
from model.compare.sections import Place, Section, Skipped, Watcher
from model.compare.variants import variants
from model.config import TextConfig
from model.finetune.store import save_encoder
from model.settings import RunSettings
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


def test_validation_chooses_among_a_search(compared: Compared) -> None:
    entry = next(entry for entry in section(compared).entries if entry.variant.name == "ours")
    assert entry.variant.settings.train.learning_rate == 1e-3
    badly = next(entry for entry in section(compared).entries if entry.variant.name == "asked-badly")
    assert badly.variant.settings == entry.variant.settings


def test_an_option_of_a_search_that_cannot_be_trained_is_told_and_left_out(compared: Compared, tmp_path: Path) -> None:
    ours = compared.config.models["ours"].model_copy(update={"search": ({"model.repeat": True}, {})})
    config = compared.config.model_copy(update={"models": compared.config.models | {"ours": ours}, "seeds": (1,)})
    place = Place(compared.place.config_folder, SHOP, tmp_path, compared.place.cache_folder)
    heard = Heard()
    made = next(part for part in run(config, place, heard.watcher()) if isinstance(part, Section))
    assert [bool(entry.problem) for entry in made.entries] == [False, False, False]
    chosen = next(entry for entry in made.entries if entry.variant.name == "ours")
    assert (chosen.tried, chosen.variant.chosen) == (1, {})
    assert any("ours with {'model.repeat': True}: model.repeat is learned by" in each for each in heard.problems)


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
    run_ = running._Run(compared.config, compared.place, Heard().watcher(), (), compute=False)
    assert run_._training_key(part, learned) == run_._training_key(part, both)


def test_another_encoder_in_the_same_folder_is_another_cell(compared: Compared, tmp_path: Path) -> None:
    part = section(compared)
    (ours,) = (entry.variant for entry in part.entries if entry.variant.name == "ours")
    folder, keys = tmp_path / "encoder", set()
    folder.mkdir()
    (folder / "model.safetensors").touch()
    settings = ours.settings.with_overrides({"model.text.encoder": str(folder)})
    for content in ("{}", '{"fine-tuned": true}'):
        (folder / "config.json").write_text(content, encoding="utf-8")
        running._encoder.cache_clear()  # as another process begins
        run_ = running._Run(compared.config, compared.place, Heard().watcher(), (), compute=False)
        keys.add(run_.cell(part, replace(ours, settings=settings), 1, None).key)
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
    config = compared.config.model_copy(update={"models": {"popularity": compared.config.models["popularity"]}})
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


def test_each_relation_is_left_out_in_turn(compared: Compared) -> None:
    config = compared.config.model_validate(
        compared.config.model_dump(exclude_unset=True)
        | {"models": {"ours": {"config": "base.toml"}, "without": {"like": "ours", "each_relation": True}}}
    )
    made = variants(config, compared.place.config_folder, "shop", "next", ("A", "B"), lambda variant: RunSettings())
    assert [(each.title, each.settings.model.exclude_relations, each.settings.model.transitions) for each in made] == [
        ("ours", (), True),
        ("without A", ("A",), True),
        ("without B", ("B",), True),
        ("without NEXT", (), False),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "nobody"}, "reference 'nobody' is not one of"),
        ({"models": {"m": {"baseline": "ease", "like": "m"}}}, "exactly one of baseline, config and like"),
        ({"models": {"m": {"baseline": "ease", "overrides": {"a": 1}}}}, "a baseline has no overrides"),
        ({"goals": [{"data": "shop", "protocol": "next", "share": 0.5}]}, "share needs the question"),
        ({"goals": [{"data": "shop", "protocol": "never", "above": 0}]}, "protocol 'never' is not one of next"),
        (
            {"goals": [{"data": "shop", "protocol": "next", "metric": "nonsense", "above": 0}]},
            r"goals\.0\.metric: .*'ndcg@5', .* or 'coverage@10' \(got 'nonsense'\)",
        ),
        (
            {"models": {"m": {"baseline": "ease", "noise": {"titles": 0.1}, "noise_at": "scoring"}}},
            "noise_at = 'scoring' with titles or facts is for models of ours",
        ),
        ({"models": {"m": {"baseline": "bpr", "noise": {"events": 0.1}}}}, "noise in the events that are learned from"),
        ({"metric": "precision@10"}, r"metric: .*'ndcg@5', .* or 'mrr@10' \(got 'precision@10'\)"),
        ({"metric": "novelty@10"}, r"metric: .*\(got 'novelty@10'\)"),
    ],
)
def test_a_wrong_comparison_is_one_clear_error(change: dict[str, Any], said: str, compared: Compared) -> None:
    whole = compared.config.model_dump(mode="json", exclude_unset=True) | {"reference": ""} | change
    file = compared.place.home / "wrong.toml"
    file.write_text(tomli_w.dumps(whole))
    with pytest.raises(ConfigError, match=said):
        read_comparison(file)


def test_a_wrong_override_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"there is no setting 'model\.layer'"):
        RunSettings().with_overrides({"model.layer": 1})
    with pytest.raises(ConfigError, match=r"model\.layers: .*less than or equal to 6 \(got 99\)"):
        RunSettings().with_overrides({"model.layers": 99})
    changed = RunSettings().with_overrides({"model.layers": 0, "model.text.max_tokens": 32})
    assert (changed.model.layers, changed.model.text.max_tokens) == (0, 32)


def test_a_library_that_is_not_installed_has_no_version(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> str:
        if library == "implicit":
            raise PackageNotFoundError(library)
        return version(library)

    monkeypatch.setattr("model.libraries.version", missing)
    parts = run(compared.config, compared.place, only=["shop/next/popularity"], compute=False)
    assert parts
