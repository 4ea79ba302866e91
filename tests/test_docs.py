"""Every command and example in the README and in docs/ runs as it is written.

A page's ```sh and ```python blocks run in order, in a copy of `examples/` and `configs/`, against the coffee shop:
loaded into the embedded Neo4j, frozen, trained, published, and served.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kgrank.client import Client
from kgrank.errors import DeadlineError, ServerUnavailableError

ROOT = Path(__file__).parent.parent
SHOP = ROOT / "examples" / "shop"
KGRANK = str(Path(sys.executable).parent / "kgrank")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Shop:
    """The coffee shop, loaded, trained, published and served: what a documentation example finds."""

    environment: dict[str, str]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("shop")
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KGRANK_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KGRANK_HOME": str(home),
        "KGRANK_SERVE__PORT": str(port),
        "KGRANK_TARGET": f"127.0.0.1:{port}",
        "OMP_NUM_THREADS": "1",
    }
    kgrank(environment, "graph", "start")
    try:
        files = [f"--{name}={SHOP / name}.csv" for name in ("products", "interactions", "facts", "users")]
        kgrank(environment, "load", "tables", *files)
        kgrank(environment, "snapshot")
        kgrank(environment, "--config", str(ROOT / "configs" / "shop.toml"), "train")
        kgrank(environment, "publish")
        with serving(environment, home / "serve.log"):
            yield Shop(environment)
    finally:
        kgrank(environment, "graph", "stop")


@contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run `kgrank serve` until it answers, and end it in order."""
    with log.open("wb") as sink:
        process = subprocess.Popen([KGRANK, "serve"], env=environment, stdout=sink, stderr=sink)
    try:
        with Client(environment["KGRANK_TARGET"]) as client:
            while process.poll() is None:
                try:
                    client.recommend(k=1)
                    break
                except (ServerUnavailableError, DeadlineError):
                    continue  # each try waits for its retries; the test's own time limit ends this
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()


def kgrank(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([KGRANK, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kgrank {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match.group(1), match.group(2))
        for match in FENCE.finditer(text)
    ]


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub calls them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.language == "python":
        command = [sys.executable, "-W", "error", "-c", block.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    where = f"{block.page.name}:{block.line}"
    assert done.returncode == 0, f"{where} failed ({done.returncode})\n{block.text}\n{done.stdout}\n{done.stderr}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme]
    assert not missing


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.name}: {link}")
    assert not broken


def test_an_anchor_is_made_of_a_heading_as_github_makes_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `kgrank load` of users' files, at 10 %\n\n## Seen\n\n```sh\n# no heading\n```\n\n### Seen\n")
    assert anchors(page) == {"a-kgrank-load-of-users-files-at-10-", "seen", "seen-1"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first page waits for a graph, a training, what it compiles, and a server
@pytest.mark.xdist_group("shop")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_example_runs(page: Path, shop: Shop, tmp_path: Path) -> None:
    for name in ("examples", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, dirs_exist_ok=True)
    for block in blocks(page):
        if "grpcurl" in block.text and shutil.which("grpcurl", path=shop.environment["PATH"]) is None:
            continue  # a Go tool; the Python example of the same call runs in any case
        run_block(block, tmp_path, shop.environment)
