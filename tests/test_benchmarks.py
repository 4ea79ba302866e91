"""The benchmarks: each can tell how it is called."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_option_s_help_can_be_shown(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = [word.value for call in calls for word in call.keywords if word.arg == "help"]
    for text in [each.value for each in given if isinstance(each, ast.Constant)]:
        assert text % defaultdict(str)  # as argparse fills it in: a bare percent sign is an error
