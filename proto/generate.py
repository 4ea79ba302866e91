"""Generate the stubs of the contract: `python proto/generate.py`; a test fails when the committed ones differ.

The grpcio-tools of the dev extra is the oldest supported release, so that the stubs run on every newer one.
"""

import os
import sys
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).parent


def generate(out: Path) -> None:
    """Write the modules of `proto/kgrank/v1/*.proto`, with types for mypy, below a folder.

    Raises:
        RuntimeError: protoc refused a file; it has said why on stderr.
    """
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "kgrank" / "v1").glob("*.proto"))
    services = [file for file in files if file.endswith("_service.proto")]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    _run(["--python_out", str(out), f"--mypy_out=quiet:{out}", *files])
    _run(["--grpc_python_out", str(out), f"--mypy_grpc_out=quiet:{out}", *services])


def _run(arguments: list[str]) -> None:
    # protoc finds google/protobuf/*.proto beside grpc_tools.
    well_known = Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *arguments]) != 0:
        raise RuntimeError("protoc failed")


if __name__ == "__main__":
    generate(ROOT)
