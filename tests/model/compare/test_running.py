"""A comparison run on the coffee shop: whole, gone on with, in part, and what its report says."""

import json
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kg.errors import ConfigError
from model.compare import fitting
from model.compare.cells import CellStore
from model.compare.config import MODELS, CompareConfig, read_comparison
from model.compare.goals import judged
from model.compare.page import rewrite_block, write_report
from model.compare.report import METRICS, build
from model.compare.running import help_out, run
from model.compare.sections import Place, Section, Skipped, Watcher
from model.compare.touched import note_touch
from model.compare.variants import variants
from model.settings import RunSettings
from tests.waiting import until

ROOT = Path(__file__).parents[3]
SHOP = ROOT / "examples" / "shop"
BASE = """
[model]
dimension = 16
layers = 1
text_kernel_dimension = 8
history_length = 8
[train]
epochs = 1
batch_users = 32
threads = 1
"""
COMPARISON = """
title = "Small"
reference = "ours"
seeds = [1, 2, 3]
trials = 2
threads = 1
resamples = 200

[data.shop]
title = "Coffee shop"
source = "tables"
interactions = ["interactions.csv"]
products = ["products.csv"]
facts = ["facts.csv"]

[data.missing]
source = "amazon"
reviews = ["nowhere.json.gz"]

[protocols.next]
protocol = "leave-one-out"
repeats = true

[models.popularity]
baseline = "popularity"

[models.ours]
config = "base.toml"
search = [{}, { "train.learning_rate" = 1e-5 }]

[models.asked-badly]
like = "ours"
noise = { titles = 0.5, events = 0.2 }
noise_at = "scoring"
group = "noise"

[[goals]]
data = "shop"
protocol = "next"
at_least = 0.0

[[goals]]
data = "missing"
protocol = "next"
at_least = 0.5
"""


@dataclass
class Heard:
    """What a run told."""

    computed: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left: list[float | None] = field(default_factory=list)

    def watcher(self) -> Watcher:
        def on_cell(cell: Any, there: bool, seconds: float, left_s: float | None) -> None:
            (self.found if there else self.computed).append(f"{cell.model} {cell.seed}")
            self.left.append(left_s)

        return Watcher(on_cell=on_cell, on_problem=lambda what, why: self.problems.append(f"{what}: {why}"))


@dataclass(frozen=True)
class Compared:
    """A comparison that has run once."""

    config: CompareConfig
    place: Place
    heard: Heard
    parts: list[Section | Skipped]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "base.toml").write_text(BASE)
    (folder / "small.toml").write_text(COMPARISON)
    config, heard = read_comparison(folder / "small.toml"), Heard()
    place = Place(folder, SHOP, folder / "home", folder / "cache")
    return Compared(config, place, heard, list(run(config, place, heard.watcher())))


def section(compared: Compared) -> Section:
    return next(part for part in compared.parts if isinstance(part, Section))


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


def test_the_document_has_intervals_leads_and_slices(compared: Compared) -> None:
    document = build(compared.config, compared.parts, "test")
    table = document["tables"][0]
    assert (table["data"], table["protocol"], table["question"]) == ("shop", "next", "all products")
    models = {model["name"]: model for model in table["models"]}
    for model in models.values():
        assert set(METRICS) < set(model["metrics"])
        for name in METRICS:
            found = model["metrics"][name]
            assert found["low"] - 1e-9 <= found["mean"] <= found["high"] + 1e-9
    assert models["ours"]["metrics"]["ndcg@10"]["seed_sd"] > 0
    assert models["popularity"]["metrics"]["ndcg@10"]["seed_sd"] is None
    lead = models["popularity"]["lead"]
    ours, theirs = (models[name]["metrics"]["ndcg@10"]["mean"] for name in ("ours", "popularity"))
    assert lead["mean"] == pytest.approx(ours - theirs)
    assert lead["p"] <= lead["p_holm"]
    assert "lead" not in models["ours"]
    assert document["comparisons"] == sum(len(table["models"]) - 1 for table in document["tables"])
    beside = [model["metrics"]["ndcg@10"]["mean"] for model in models.values() if model["group"] == MODELS]
    assert max(beside) <= table["oracle"]["mean"] <= sum(beside)
    assert [len(curve) for curve in models["ours"]["curves"]] == [1, 1, 1]
    assert sum(part["count"] for part in table["slices"]["history"]) == table["users"]
    met, unknown = document["goals"]
    assert met["met"] is True
    assert unknown["met"] is None
    json.dumps(document)


def test_validation_and_test_are_different_answers(compared: Compared) -> None:
    reached = [
        build(compared.config, compared.parts, stage)["tables"][0]["models"][0]["metrics"]["mrr@10"]["mean"]
        for stage in ("validation", "test")
    ]
    assert reached[0] != reached[1]


def test_a_report_is_written_in_three_forms_and_into_the_docs(compared: Compared, tmp_path: Path) -> None:
    document = build(compared.config, compared.parts, "test")
    document["test"] = note_touch(tmp_path, document)
    docs = tmp_path / "quality.md"
    docs.write_text("before\n<!-- report: small -->\nthe former tables\n<!-- end of report: small -->\nafter\n")
    written = write_report(document, tmp_path / "report", docs)
    assert json.loads(Path(written["json"]).read_text())["title"] == "Small"
    page = Path(written["html"]).read_text()
    assert page.count("<img ") == len(list((tmp_path / "report" / "plots").glob("*.svg")))
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")
    markdown = Path(written["markdown"]).read_text()
    for plot in (tmp_path / "report" / "plots").glob("*.svg"):
        assert f"(plots/{plot.name})" in markdown
    told = docs.read_text()
    assert told.startswith("before\n<!-- report: small -->\n\n")
    assert told.endswith("<!-- end of report: small -->\nafter\n")
    assert "former" not in told
    assert "Test data, touched" in told
    assert "nowhere.json.gz is not there" in told
    assert "| **ours** |" in told
    with pytest.raises(ConfigError, match="has no block for small"):
        rewrite_block(tmp_path / "none.md", document)


def test_every_look_at_test_data_is_counted(compared: Compared, tmp_path: Path) -> None:
    document = build(compared.config, compared.parts, "test")
    first = note_touch(tmp_path, document)
    assert first["reports_of_other_cells_before"] == 0
    assert note_touch(tmp_path, document)["reports_of_other_cells_before"] == 0  # the same models, shown again
    other = note_touch(tmp_path, document | {"cells": ["another"]})
    assert other["reports_of_other_cells_before"] == 2
    assert other["first"] == first["at"]


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


def test_goals_are_judged_by_means_and_intervals() -> None:
    def model(name: str, mean: float, lead: float | None = None) -> dict[str, Any]:
        told: dict[str, Any] = {
            "name": name,
            "title": name,
            "group": "models",
            "baseline": None if name == "ours" else name,
            "metrics": {"ndcg@10": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}},
        }
        return told if lead is None else told | {"lead": {"mean": lead, "low": lead - 0.01, "high": lead + 0.01}}

    tables = [
        {"data": "d", "protocol": "p", "question": "warm", "models": [model("ours", 0.2), model("knn", 0.19, 0.01)]},
        {"data": "d", "protocol": "p", "question": "cold", "models": [model("ours", 0.09), model("knn", 0.1, -0.01)]},
    ]
    goals = [
        {"at_least": 0.195},
        {"above": 0.05},
        {"above": 0.1},
        {"question": "cold", "share": 0.4, "of": "warm"},
        {"question": "cold", "above": 0.0, "above_only": "knn"},
    ]
    config = CompareConfig.model_validate(
        {
            "data": {"d": {"source": "tables"}},
            "protocols": {"p": {}},
            "models": {"ours": {"config": "x.toml"}, "knn": {"baseline": "itemknn"}},
            "reference": "ours",
            "goals": [{"data": "d", "protocol": "p"} | goal for goal in goals],
        }
    )
    told = judged(config, tables)
    assert [(one["met"], one["clear"]) for one in told] == [
        (True, False),
        (True, False),
        (False, False),
        (True, None),
        (False, False),
    ]
    assert told[1]["wanted"] == pytest.approx(0.19 * 1.05)
    assert told[3]["wanted"] == pytest.approx(0.08)
