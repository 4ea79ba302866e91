import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgrank.client import Client
from tests.server.command import kgrank as kgrank
from tests.server.guarded import guarded as guarded
from tests.server.running import running
from tests.server.shop import Shop, make_shop

# What is tested is the answer, not how soon a busy machine gives it.
Client.__init__.__kwdefaults__["timeout_s"] = 60.0


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop; nobody writes into its home."""
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def home(shop: Shop, tmp_path: Path) -> Path:
    """A copy of the shop's home for one test."""
    return Path(shutil.copytree(shop.home, tmp_path / "home"))


@pytest.fixture(scope="session")
def served(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that many tests share; they write events of their own users only."""
    copy = Path(shutil.copytree(shop.home, tmp_path_factory.mktemp("served") / "home"))
    with running(copy) as server:
        yield server.target


@pytest.fixture
def client(served: str) -> Iterator[Client]:
    """A client of the shared server."""
    with Client(served) as connected:
        yield connected
