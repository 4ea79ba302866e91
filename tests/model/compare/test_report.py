"""What is reported of a comparison: the document, its pages, looks at test data, and goals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kg.errors import ConfigError
from model.baselines.popularity import Popularity, popularity
from model.case import SplitConfig
from model.compare.cells import Outcome
from model.compare.config import METRICS, MODELS, CompareConfig
from model.compare.goals import judged
from model.compare.noise import renamed
from model.compare.page import rewrite_block, write_report
from model.compare.report import build
from model.compare.sections import Skipped
from model.compare.statistics import Sample
from model.compare.tables import goal_sheet
from model.compare.touched import LEDGER, answers_digest, note_touch
from model.errors import ModelError
from model.evaluate import measure
from model.likeness import graph_features
from model.ranker import rank
from model.splits import make_split
from tests.model.compare.small_comparison import Compared, section


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


@pytest.mark.parametrize("blocks", ["B\nE\nwords\nB\nE\n", "B\nE\nE\n", "B\nB\nE\n", "E\nB\nE\n", "E\nB\n"])
def test_a_block_that_stands_twice_is_refused_and_the_page_left_as_it_is(
    blocks: str, compared: Compared, tmp_path: Path
) -> None:
    ends = {"B": "<!-- report: small -->", "E": "<!-- end of report: small -->"}
    docs = tmp_path / "quality.md"
    docs.write_text("".join(ends.get(letter, letter) for letter in blocks))
    former = docs.read_text()
    with pytest.raises(ConfigError, match="more than one block for small, or ends it before it begins"):
        rewrite_block(docs, build(compared.config, compared.parts, "validation"))
    assert docs.read_text() == former


def test_every_plot_has_a_file_of_its_own_in_whatever_letters_its_group_is_named(
    compared: Compared, tmp_path: Path
) -> None:
    document = build(compared.config, compared.parts, "validation")
    groups = {"popularity": "基线", "asked-badly": "噪声"}
    for table in document["tables"]:
        for model in table["models"]:
            model["group"] = groups.get(model["name"], model["group"])
    written = write_report(document, tmp_path)
    drawings = [file.read_text() for file in (tmp_path / "plots").glob("*.svg")]
    assert len(drawings) == len(set(drawings)) == Path(written["markdown"]).read_text().count("](plots/")


def test_a_report_without_a_table_leaves_the_docs_as_they_are(compared: Compared, tmp_path: Path) -> None:
    document = build(compared.config, [part for part in compared.parts if isinstance(part, Skipped)], "test")
    docs = tmp_path / "quality.md"
    docs.write_text("before\n<!-- report: small -->\nthe former tables\n<!-- end of report: small -->\nafter\n")
    former = docs.read_text()
    with pytest.raises(ModelError, match=r"keeps its tables of small.*: .*nowhere\.json\.gz is not there\n"):
        write_report(document, tmp_path / "report", docs)
    assert docs.read_text() == former
    assert "nowhere.json.gz is not there" in (tmp_path / "report" / "report.md").read_text()


def test_every_look_at_test_data_is_counted(compared: Compared, tmp_path: Path) -> None:
    document = build(compared.config, compared.parts, "test")
    first = note_touch(tmp_path, document)
    assert first["reports_of_other_cells_before"] == 0
    assert note_touch(tmp_path, document)["reports_of_other_cells_before"] == 0  # the same models, shown again
    other = note_touch(tmp_path, document | {"cells": ["another"]})
    assert other["reports_of_other_cells_before"] == 2
    assert other["first"] == first["at"]
    with (tmp_path / LEDGER).open("a") as file:  # a kill, or a full disk, cut a line short
        file.write('{"at": "20')
    assert note_touch(tmp_path, document)["reports_of_other_cells_before"] == 1
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 5


def test_the_same_answers_beside_other_facts_are_the_same_test_data(compared: Compared, tmp_path: Path) -> None:
    part = section(compared)
    fewer = replace(part, snapshot=renamed(replace(part.snapshot, facts={}), "without facts"))
    first, document = (build(compared.config, [each], "test") for each in (part, fewer))
    others = [answers_digest(part.split.test.take(np.arange(3)))]
    looks = [
        note_touch(tmp_path, each | {"cells": [str(row)]})["reports_of_other_cells_before"]
        for row, each in enumerate((first, document, document | {"answers": others}))
    ]
    assert looks == [0, 1, 0]
    # Entries of former versions tell of their snapshots alone.
    ledger = tmp_path / LEDGER
    told = [json.loads(line) for line in ledger.read_text().splitlines()]
    ledger.write_text("".join(json.dumps({k: v for k, v in each.items() if k != "answers"}) + "\n" for each in told))
    assert note_touch(tmp_path, document | {"cells": ["more"]})["reports_of_other_cells_before"] == 2


def test_novelty_is_that_of_an_evaluation_where_users_are_held_out(compared: Compared) -> None:
    part = section(compared)
    held_out = SplitConfig(protocol="cold-users", cold_events=(0, 1), repeats=True, cold_share=0.3)
    split = make_split(part.snapshot, held_out)
    weight = popularity(split.train, len(part.snapshot.products), None)
    cases = {(row, "test"): question.test for row, question in enumerate(split.questions)}
    lists = {place: rank(Popularity(weight), case, 20) for place, case in cases.items()}
    (entry, *_) = part.entries
    asked = replace(part, split=split, entries=[replace(entry, cells=[(entry.cells[0][0], Outcome(lists, 1.0))])])
    tables = build(compared.config, [asked], "test")["tables"]
    features = graph_features(part.snapshot)
    for (place, case), table in zip(cases.items(), tables, strict=True):
        expected, _ = measure(lists[place], case, features, np.random.default_rng(1))
        assert table["models"][0]["metrics"]["novelty@10"]["mean"] == pytest.approx(expected["novelty@10"].mean)


USERS = 400
HALF = np.arange(USERS) % 2  # every other user has a hit
ASKED = ("ours", "ours-too", "knn", "ease")


def model_of(name: str, **values: npt.NDArray[np.float64]) -> dict[str, Any]:
    def told(value: npt.NDArray[np.float64]) -> dict[str, float]:
        mean, wide = float(value.mean()), 2 * float(value.std()) / len(value) ** 0.5
        return {"mean": mean, "low": mean - wide, "high": mean + wide}

    metrics = {metric.replace("_", "@"): told(value) for metric, value in values.items()}
    return {
        "name": name,
        "title": name,
        "group": "models",
        "baseline": None if name.startswith("ours") else name,
        "metrics": metrics,
    }


def goals_told(
    goals: list[dict[str, Any]],
    questions: dict[str, dict[str, dict[str, npt.NDArray[np.float64]]]],
    users: dict[str, npt.NDArray[np.int64]] | None = None,
) -> list[dict[str, Any]]:
    """Judge goals by what each user came to, by question, model and metric (`ndcg_10`)."""
    names = {name: {"config": "x.toml"} if name.startswith("ours") else {"baseline": "ease"} for name in ASKED}
    config = CompareConfig.model_validate(
        {
            "data": {"d": {"source": "tables"}},
            "protocols": {"p": {"protocol": "cold-users", "cold_events": [3]}},
            "models": names,
            "reference": "ours",
            "resamples": 500,
            "goals": [{"data": "d", "protocol": "p"} | goal for goal in goals],
        }
    )
    tables = [
        {
            "data": "d",
            "protocol": "p",
            "question": question,
            "models": [model_of(name, **values) for name, values in models.items()],
        }
        for question, models in questions.items()
    ]
    figures = {
        ("d", "p", question, name, metric.replace("_", "@")): Sample(
            (users or {}).get(question, np.arange(USERS)), value
        )
        for question, models in questions.items()
        for name, values in models.items()
        for metric, value in values.items()
    }
    missing = [("d", "p", "a slow baseline"), ("d", "another", "a slow baseline")]
    return judged(config, tables, figures, missing)


def test_a_goal_is_judged_by_its_own_metric_and_its_own_model() -> None:
    noise = np.random.default_rng(1).normal(0, 1, USERS)
    clear, unclear = HALF + 0.1, HALF + 0.01 + noise - noise.mean()
    questions = {
        "all": {
            "ours": {"ndcg_10": unclear, "recall_20": clear},
            "ours-too": {"ndcg_10": clear, "recall_20": HALF - 0.1},
            "knn": {"ndcg_10": HALF.astype(float), "recall_20": HALF.astype(float)},
            "ease": {"ndcg_10": HALF - 0.2, "recall_20": HALF - 0.2},
        }
    }
    goals = [
        {"above": 0.0},
        {"above": 0.0, "metric": "recall@20"},
        {"above": 0.0, "model": "ours-too"},
        {"above": 0.0, "model": "ours-too", "metric": "recall@20"},
        {"above": 0.0, "model": "ours-too", "metric": "recall@20", "above_only": "ease"},
    ]
    told = goals_told(goals, questions)
    assert [(one["met"], one["clear"]) for one in told] == [
        (True, False),
        (True, True),
        (True, True),
        (False, False),
        (True, True),
    ]
    assert [one["against"] for one in told] == ["knn"] * 4 + ["ease"]
    # Above the best of those that are there is not yet above every baseline.
    assert [one["missing"] for one in told] == [1, 1, 1, 1, 0]
    sheet = goal_sheet({"goals": told})
    assert sheet is not None
    assert [row[-1] for row in sheet.rows[:2]] == [
        "met by the mean, not by the interval; 1 baseline not computed",
        "met; 1 baseline not computed",
    ]


def test_a_lead_is_clear_only_where_all_that_is_wanted_of_it_is() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, USERS)
    lead = HALF + 0.03 + noise - noise.mean()  # 6 % above, some 1 % either way by the draw of users
    questions = {"all": {"ours": {"ndcg_10": lead}, "knn": {"ndcg_10": HALF.astype(float)}}}
    goals = [{"above": share} for share in (0.0, 0.03, 0.055, 0.07)]
    told = goals_told(goals, questions)
    assert [(one["met"], one["clear"]) for one in told] == [(True, True), (True, True), (True, False), (False, False)]
    assert told[2]["wanted"] == pytest.approx(0.5 * 1.055)


def test_a_share_of_another_question_is_judged_on_the_users_of_both() -> None:
    value = HALF.astype(float)
    few, whole = "last 3 events", "whole history"
    questions = {few: {"ours": {"ndcg_10": 0.82 * value}}, whole: {"ours": {"ndcg_10": value}}}
    goal = {"question": few, "share": 0.8, "of": whole}
    (same,) = goals_told([goal], questions)  # for each of the users the share is .82
    assert (same["met"], same["clear"], same["against"]) == (True, True, whole)
    assert same["wanted"] == pytest.approx(0.4)
    (others,) = goals_told([goal], questions, {whole: np.arange(USERS) + USERS})
    assert (others["met"], others["clear"]) == (True, False)
    (missed,) = goals_told([goal | {"share": 0.9}], questions)
    assert (missed["met"], missed["clear"]) == (False, False)


def test_a_value_to_reach_is_held_against_the_interval() -> None:
    told = goals_told([{"at_least": value} for value in (0.4, 0.49, 0.51)], {"all": {"ours": {"ndcg_10": HALF + 0.0}}})
    assert [(one["met"], one["clear"]) for one in told] == [(True, True), (True, False), (False, False)]


def test_a_report_has_the_interval_of_every_goal(compared: Compared) -> None:
    here = {"data": "shop", "protocol": "next"}
    goals = [
        {"above": 0.0, "metric": "recall@20"},
        {"above": 0.0, "model": "popularity", "above_only": "ours", "metric": "recall@20"},
        {"question": "products new to the user", "share": 0.01, "of": "all products"},
        {"at_least": 0.0, "metric": "coverage@10"},
    ]
    config = CompareConfig.model_validate(
        compared.config.model_dump(exclude_unset=True) | {"goals": [here | goal for goal in goals]}
    )
    document = build(config, compared.parts, "test")
    above, below, share, coverage = document["goals"]
    models = {model["name"]: model["metrics"]["recall@20"] for model in document["tables"][0]["models"]}
    assert above["wanted"] == models["popularity"]["mean"]
    assert below["wanted"] == models["ours"]["mean"]
    assert above["met"] == (above["reached"] >= above["wanted"])
    assert None not in (above["clear"], below["clear"])
    assert not (above["clear"] and below["clear"])
    assert share["clear"] is True
    assert (coverage["met"], coverage["clear"]) == (True, None)
