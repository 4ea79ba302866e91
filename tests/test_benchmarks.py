"""The benchmarks: each can tell how it is called."""

import ast
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.server_load import shop

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_option_s_help_can_be_shown(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = [word.value for call in calls for word in call.keywords if word.arg == "help"]
    for text in [each.value for each in given if isinstance(each, ast.Constant)]:
        assert text % defaultdict(str)  # as argparse fills it in: a bare percent sign is an error


@pytest.mark.parametrize(("there", "lacking"), [([], "snapshots"), (["snapshots/one"], "artifacts")])
def test_a_home_without_a_model_is_refused_in_a_sentence(tmp_path: Path, there: list[str], lacking: str) -> None:
    for name in there:
        (tmp_path / name).mkdir(parents=True)
    with (
        pytest.raises(SystemExit, match=f"there are no {lacking} in it; make a shop with --keep"),
        shop(Namespace(home=tmp_path, keep=None)),
    ):
        pass
