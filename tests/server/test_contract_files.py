"""The contract's files: stubs agree with the .proto files, buf has no complaint, the client needs the base install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")


def test_the_committed_stubs_are_what_the_proto_files_give(tmp_path: Path) -> None:
    # protoc keeps a registry of files: a process of its own starts with none.
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'proto')!r}); import generate, pathlib; "
    script += f"generate.generate(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", script], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    committed = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*_pb2*.py*"))
    assert made == [path for path in committed if "__pycache__" not in path.parts]
    for path in made:
        assert (tmp_path / path).read_text() == (ROOT / "proto" / path).read_text(), f"{path}: run make proto"


@pytest.mark.skipif(not BUF.is_file(), reason="buf (buf-bin) is not installed")
def test_buf_has_no_complaint() -> None:
    for command in (("lint",), ("format", "--diff", "--exit-code")):
        done = subprocess.run([str(BUF), *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_needs_the_base_install_only() -> None:
    script = (
        "import sys, kgrank.client\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'neo4j', 'pyarrow', 'kg', 'model', 'server', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT / "proto"
    )
    assert done.stdout.strip() == "[]"
