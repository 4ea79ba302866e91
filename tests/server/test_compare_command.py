"""`kgrank compare`: one command from a file to a report, and one sentence for a mistake."""

import json
from pathlib import Path

import pytest

from tests.server.command import CommandLine, kgrank

__all__ = ["kgrank"]

ROOT = Path(__file__).parents[2]
PEERS = """
title = "Peers"
reference = "itemknn"
seeds = [1, 2]
trials = 1
resamples = 100

[data.shop]
source = "tables"
interactions = ["interactions.csv"]
products = ["products.csv"]

[protocols.next]
protocol = "leave-one-out"
repeats = true

[models.popularity]
baseline = "popularity"

[models.itemknn]
baseline = "itemknn"
"""


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    file = tmp_path / "peers.toml"
    file.write_text(PEERS)
    return file


def test_a_comparison_is_reported_and_the_test_touched_only_when_told(
    kgrank: CommandLine, tmp_path: Path, peers: Path
) -> None:
    home, shop = tmp_path / "home", str(ROOT / "examples" / "shop")
    done = kgrank(home, "compare", str(peers), "--data", shop)
    assert done.code == 0, done.err
    assert "against itemknn" in done.out
    assert "validation" in done.out
    assert "4 cells, 0 of them there already" in done.err
    ledger = home / "compare" / "test-touched.jsonl"
    assert not ledger.exists()
    done = kgrank(home, "compare", str(peers), "--data", shop, "--test", "--json", "--out", str(tmp_path / "report"))
    assert done.code == 0, done.err
    assert "4 cells, 4 of them there already" in done.err
    told = json.loads(done.out)
    assert told["stage"] == "test"
    assert told["html"] == str(tmp_path / "report" / "report.html")
    assert "touched for this report" in Path(told["markdown"]).read_text()
    assert len(ledger.read_text().splitlines()) == 1


@pytest.mark.slow
def test_two_processes_make_the_same_report(kgrank: CommandLine, tmp_path: Path, peers: Path) -> None:
    shop = str(ROOT / "examples" / "shop")
    tables = []
    for workers in ("1", "2"):
        done = kgrank(tmp_path / workers, "compare", str(peers), "--data", shop, "--workers", workers)
        assert done.code == 0, done.err
        report = json.loads((tmp_path / workers / "compare" / "peers" / "report.json").read_text())
        tables.append([{each["name"]: each["metrics"] for each in table["models"]} for table in report["tables"]])
    assert tables[0] == tables[1]
    assert len(tables[0][0]) == 2


def test_only_some_cells_are_computed_when_told(kgrank: CommandLine, tmp_path: Path, peers: Path) -> None:
    shop = str(ROOT / "examples" / "shop")
    done = kgrank(tmp_path / "home", "compare", str(peers), "--data", shop, "--only", "*/popularity", "--seeds", "1")
    assert done.code == 0, done.err
    assert "popularity" in done.out
    assert "itemknn" not in done.out.replace("against itemknn", "")
    assert "1 cell, 0 of them" in done.err
    assert "itemknn: not asked for" in done.err
    report, ledger = (tmp_path / "home" / "compare" / name for name in ("peers/report.json", "test-touched.jsonl"))
    former = report.read_text()
    done = kgrank(tmp_path / "home", "compare", str(peers), "--data", shop, "--only", "*/popularty", "--test")
    assert done.code == 1
    assert "--only '*/popularty' matches no model of this comparison" in done.err
    assert "models: popularity, itemknn" in done.err
    assert report.read_text() == former
    assert not ledger.exists()


def test_a_comparison_that_is_not_there_is_one_sentence(kgrank: CommandLine, tmp_path: Path, peers: Path) -> None:
    done = kgrank(tmp_path / "home", "compare", str(tmp_path / "none.toml"))
    assert done.code == 1
    assert "can't be read" in done.err
    done = kgrank(tmp_path / "home", "compare", str(peers))  # its data folder has no such files
    assert done.code == 0
    assert "data set shop is skipped" in done.err
    assert "Traceback" not in done.err


def test_published_tables_outlast_a_run_without_data(kgrank: CommandLine, tmp_path: Path, peers: Path) -> None:
    docs = tmp_path / "quality.md"
    docs.write_text("<!-- report: peers -->\nthe former tables\n<!-- end of report: peers -->\n")
    former = docs.read_text()
    done = kgrank(tmp_path / "home", "compare", str(peers), "--docs", str(docs))
    assert done.code == 1
    assert "keeps its tables of peers" in done.err
    assert docs.read_text() == former
    assert (tmp_path / "home" / "compare" / "peers" / "report.html").exists()
