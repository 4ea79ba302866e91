import pytest

from tests.model.compare.small_comparison import Compared, make_compared


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """The comparison; nobody changes what it has kept."""
    return make_compared(tmp_path_factory.mktemp("compare"))
