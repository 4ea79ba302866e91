"""How long a newcomer waits for `make demo`, in a fresh clone: prints one JSON line.

    python benchmarks/demo.py [--cold] [--folder DIRECTORY]

Clones what is committed into a new folder, installs, runs `make demo`, and runs it again. With `--cold` the caches of
pip, uv and Maven are empty, too, so that everything is downloaded: about 3 GB. The budgets: a first run of at most 12
minutes with everything to download, at most 5 of them after installing, and a second run that answers within 90 s.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIRST_ANSWER = re.compile(r"^First answer after (\d+) s\.", re.MULTILINE)
BUDGET_S = {"fresh": 12 * 60, "after_installing": 5 * 60, "first_answer_again": 90}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", action="store_true", help="with empty package caches: everything is downloaded")
    parser.add_argument("--folder", type=Path, help="where the clone and the caches go; 9 GB, removed afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kgrank-demo-", dir=options.folder) as folder:
        print(json.dumps(_measure(Path(folder), options.cold)))


def _measure(folder: Path, cold: bool) -> dict[str, object]:
    clone = folder / "kgrank"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KGRANK_", "PYTHON"))}
    environment.pop("VIRTUAL_ENV", None)
    if cold:
        caches = {"PIP_CACHE_DIR": "pip", "UV_CACHE_DIR": "uv", "M2_REPO": "maven", "XDG_CACHE_HOME": "cache"}
        environment |= {variable: str(folder / name) for variable, name in caches.items()}
    installing, _ = _timed(["make", ".venv/.ready"], clone, environment)
    first, _ = _timed(["make", "demo"], clone, environment)
    again, output = _timed(["make", "demo"], clone, environment)
    answered = FIRST_ANSWER.search(output)
    if answered is None:
        raise SystemExit(f"the second demo did not say when it answered:\n{output[-2000:]}")
    seconds = {
        "fresh": installing + first,
        "installing": installing,
        "after_installing": first,
        "again": again,
        "first_answer_again": float(answered.group(1)),
    }
    return {
        "benchmark": "demo",
        "caches": "empty" if cold else "as they are",
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "budget_s": BUDGET_S,
        "within": {name: seconds[name] <= budget for name, budget in BUDGET_S.items()},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _timed(command: list[str], clone: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Run a command in the clone, showing its output on stderr; return how long it took and that output."""
    began = time.monotonic()
    lines = []
    with subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line)
    if process.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` ended with {process.returncode}:\n{''.join(lines[-30:])}")
    return time.monotonic() - began, "".join(lines)


if __name__ == "__main__":
    main()
