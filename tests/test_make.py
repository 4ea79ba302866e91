"""What the Makefile does, in a folder where what it starts only tells of itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
TOLD = """#!/bin/bash
echo "$(basename "$0") $*" home=$KGRANK_HOME config=$KGRANK_CONFIG uri=$KGRANK_NEO4J_URI >> told.txt
case "$*" in *{failing}*) exit 1 ;; esac
"""
MAKES = """#!/bin/bash
echo "$(basename "$0") $*" >> told.txt
mkdir -p .venv/bin
for name in python uv; do printf '#!/bin/bash\\n' > .venv/bin/$name; chmod +x .venv/bin/$name; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the Makefile and the names of all benchmarks, and an environment that is ready."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "benchmarks").mkdir()
    for path in BENCHMARKS.glob("*.py"):
        (tmp_path / "benchmarks" / path.name).touch()
    for name in ("python", "kgrank"):
        program(tmp_path / ".venv" / "bin" / name, TOLD.format(failing="stability"))
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(
    folder: Path, *arguments: str, ghz: bool = False, variables: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    found = shutil.which("make")
    if found is None:
        pytest.skip("make is not installed")
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("basename", "env", "mkdir", "chmod", "nproc", "rm", "sed", "touch"):
        (tools / name).symlink_to(shutil.which(name) or name)
    if ghz:
        program(tools / "ghz", "")
    return subprocess.run(
        [found, *arguments],
        cwd=folder,
        env={"PATH": str(tools)} | (variables or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(folder: Path) -> list[str]:
    return (folder / "told.txt").read_text().splitlines()


def asked(folder: Path) -> set[str]:
    """Return the names of the benchmarks that were started."""
    return {re.split(r"benchmarks\.| home", line)[1] for line in told(folder)}


def loads_with_ghz(path: Path) -> bool:
    return "load_options(" in path.read_text() or 'which("ghz")' in path.read_text()


def needs_to_be_given(path: Path) -> bool:
    return re.search(r"add_argument\(\"[^-]|\"shared\" / \"data\"", path.read_text()) is not None


def test_the_benchmarks_run_that_need_to_be_given_nothing(folder: Path) -> None:
    scripts = [path for path in BENCHMARKS.glob("*.py") if "def main(" in path.read_text() and path.stem != "demo"]
    alone = {path.stem for path in scripts if not needs_to_be_given(path)}
    with_ghz = {path.stem for path in scripts if loads_with_ghz(path)}
    done = make(folder, "bench")
    assert done.returncode == 0, done.stderr
    assert asked(folder) == alone - with_ghz
    (skipped,) = (line for line in done.stderr.splitlines() if "go install" in line)
    assert set(skipped.rpartition(": ")[2].split()) == with_ghz
    assert done.stdout == ""


def test_with_ghz_those_run_that_load_a_server(folder: Path) -> None:
    done = make(folder, "bench", ghz=True)
    assert done.returncode == 0, done.stderr
    assert "search" in asked(folder)
    assert "skipped" not in done.stderr


def test_a_benchmark_that_fails_keeps_no_other_from_running(folder: Path) -> None:
    program(folder / ".venv" / "bin" / "python", TOLD.format(failing="batch"))
    done = make(folder, "bench")
    assert done.returncode != 0
    assert "== failed: batch" in done.stderr.splitlines()
    assert {"batch", "scale"} <= asked(folder)


def test_a_comparison_that_fails_is_named_when_all_have_run(folder: Path) -> None:
    done = make(folder, "report")
    assert done.returncode != 0
    assert done.stderr.count("stability") == 1
    assert len(told(folder)) == len({path.stem for path in (ROOT / "configs" / "compare").glob("*.toml")} - {"quick"})


def test_cleaning_stops_the_graphs_of_what_it_removes_and_no_other(folder: Path) -> None:
    left = [".kgrank", ".kgrank-demo", ".kgrank-finetune", "examples/go/bin", "examples/go/kgrankv1", "constraints.new"]
    for name in left:
        (folder / name).mkdir(parents=True)
    others = {"KGRANK_HOME": "/prod", "KGRANK_CONFIG": "/prod.toml", "KGRANK_NEO4J_URI": "bolt://prod"}
    done = make(folder, "clean", variables=others)
    assert done.returncode == 0, done.stderr
    assert told(folder) == [f"kgrank graph stop home={home} config= uri=" for home in (".kgrank", ".kgrank-demo")]
    assert not any((folder / name).exists() for name in [*left, ".venv"])


def test_an_environment_without_pip_is_made_anew(folder: Path) -> None:
    program(folder / ".venv" / "bin" / "python", "#!/bin/bash\nexit 1\n")
    (folder / ".venv" / ".ready").unlink()
    program(folder / "python3", MAKES)
    done = make(folder, ".venv/.ready", "PYTHON=./python3")
    assert done.returncode == 0, done.stderr
    assert told(folder) == ["python3 -m venv --clear .venv"]
    assert (folder / ".venv" / ".ready").exists()


def test_an_environment_with_pip_is_kept(folder: Path) -> None:
    (folder / ".venv" / ".ready").unlink()
    program(folder / ".venv" / "bin" / "uv", "#!/bin/bash\n")
    done = make(folder, ".venv/.ready", "PYTHON=./none")
    assert done.returncode == 0, done.stderr
    assert "-m pip install" in told(folder)[-1]
