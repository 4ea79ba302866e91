"""`kgrank evaluate`: the model beside baselines, never on what it was trained on."""

import json
from pathlib import Path

import pytest

from tests.server.command import CommandLine, kgrank
from tests.server.shop import Shop

__all__ = ["kgrank"]


def test_the_model_and_the_baselines_answer_in_one_run(kgrank: CommandLine, home: Path, shop: Shop) -> None:
    done = kgrank(home, "evaluate", "--artifact", shop.versions[0], "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    (case,) = told["cases"]
    assert [result["ranker"] for result in case["results"]] == ["popularity", "frequency", "itemknn", shop.versions[0]]
    assert case["users"] == 40
    for result in case["results"]:
        assert {
            f"{name}@{k}" for name in ("recall", "ndcg", "map", "coverage", "diversity") for k in (5, 10, 20)
        } <= set(result["metrics"])
        for estimate in result["metrics"].values():
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
    # Everyone has bought of one brand only: a list of neighbours' products beats a list for all.
    by_name = {result["ranker"]: result["metrics"]["hr@20"]["mean"] for result in case["results"]}
    assert by_name["itemknn"] > by_name["popularity"]
    (kept,) = (home / "evaluations").glob(f"{shop.versions[0]}-leave-one-out-test-*.json")
    assert json.loads(kept.read_text()) == told


def test_reports_of_other_questions_stand_beside_each_other(kgrank: CommandLine, home: Path) -> None:
    evaluate = ("evaluate", "--artifact", "none", "--baselines", "popularity")
    for arguments, reports in (((), 1), (("--repeats",), 2), (("--seed", "8"), 3), (("--seed", "8"), 3)):
        done = kgrank(home, *evaluate, *arguments)
        assert done.code == 0, done.err
        assert len(list((home / "evaluations").iterdir())) == reports


def test_the_same_seed_gives_the_same_report(kgrank: CommandLine, home: Path) -> None:
    def report() -> object:
        told = json.loads(kgrank(home, "evaluate", "--artifact", "none", "--json").out)
        return [(result["ranker"], result["metrics"]) for case in told["cases"] for result in case["results"]]

    assert report() == report()


def test_repeats_give_a_second_case_of_new_products(kgrank: CommandLine, home: Path) -> None:
    told = json.loads(kgrank(home, "evaluate", "--repeats", "--baselines", "frequency", "--json").out)
    assert told["case_names"] == ["test", "test, new products"]
    assert told["cases"][0]["against_best_baseline"]["baseline"] == "frequency"


def test_a_table_is_shown_to_people(kgrank: CommandLine, home: Path) -> None:
    done = kgrank(home, "evaluate", "--baselines", "popularity")
    assert done.code == 0
    assert "95 % interval" in done.out
    assert "against popularity" in done.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--protocol", "temporal"), "was trained with split.protocol = 'leave-one-out', not 'temporal'"),
        (("--protocol", "random"), "split.protocol"),
        (("--baselines", "oracle"), "there is no baseline 'oracle'"),
        (("--artifact", "19990101-00000000"), "there is no model '19990101-00000000'"),
        (("--snapshot", "nowhere"), "is not a snapshot"),
        (("--tuned", "nowhere.toml"), "nowhere.toml can't be read"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_clear_error(
    kgrank: CommandLine, home: Path, arguments: tuple[str, ...], problem: str
) -> None:
    done = kgrank(home, "evaluate", *arguments)
    assert done.code == 1
    assert problem in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
