"""What is reported of a comparison: the document, its pages, looks at test data, and goals."""

import json
from pathlib import Path
from typing import Any

import pytest

from kg.errors import ConfigError
from model.compare.config import MODELS, CompareConfig
from model.compare.goals import judged
from model.compare.page import rewrite_block, write_report
from model.compare.report import METRICS, build
from model.compare.tables import goal_sheet
from model.compare.touched import note_touch
from tests.model.compare.small_comparison import Compared


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
    told = judged(config, tables, [("d", "p", "a slow baseline"), ("d", "another", "a slow baseline")])
    assert [(one["met"], one["clear"]) for one in told] == [
        (True, False),
        (True, False),
        (False, False),
        (True, None),
        (False, False),
    ]
    # Above the best of those that are there is not yet above every baseline.
    assert [one["missing"] for one in told] == [0, 1, 1, 0, 0]
    document = {"goals": told}
    sheet = goal_sheet(document)
    assert sheet is not None
    assert sheet.rows[1][-1] == "met by the mean, not by the interval; 1 baseline not computed"
    assert told[1]["wanted"] == pytest.approx(0.19 * 1.05)
    assert told[3]["wanted"] == pytest.approx(0.08)
