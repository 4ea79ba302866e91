"""Settings: precedence, ranges, secrets."""

from pathlib import Path

import pytest

from kg.config import GraphSettings
from kg.errors import ConfigError
from server.config import load_settings


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KGRANK_CONFIG", "KGRANK_HOME", "KGRANK_NEO4J_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_need_no_file() -> None:
    assert load_settings().home == Path(".kgrank")


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(
    empty_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_place / "kgrank.toml").write_text("[serve]\nport = 6000\nmax_results = 50\n")
    monkeypatch.setenv("KGRANK_SERVE__PORT", "7000")
    serve = load_settings().serve
    assert (serve.port, serve.max_results, serve.max_batch) == (7000, 50, 64)


def test_the_usual_neo4j_variables_reach_the_graph(empty_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_place / "kgrank.toml").write_text('[graph]\nuri = "bolt://file:1"\nheap_mib = 300\n')
    monkeypatch.setenv("KGRANK_NEO4J_URI", "bolt://there:7687")
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD", "secret-word")
    graph = load_settings().graph
    assert (graph.uri, graph.heap_mib, graph.read_password()) == ("bolt://there:7687", 300, "secret-word")
    assert "secret-word" not in repr(graph)


def test_the_password_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-file\n")
    assert GraphSettings(password_file=tmp_path / "password").read_password() == "from-file"


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password_file .*nothing-here can't be read"):
        GraphSettings(password_file=tmp_path / "nothing-here").read_password()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nport = 70000\n", r"setting serve\.port: .*65535 \(got 70000\)"),
        ("[serve]\nprot = 1\n", r"setting serve\.prot: Extra inputs"),
        ("[serve\n", "not valid TOML"),
    ],
)
def test_a_bad_file_names_field_and_value(empty_place: Path, text: str, message: str) -> None:
    (empty_place / "kgrank.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings()


def test_a_bad_password_is_not_shown(empty_place: Path) -> None:
    (empty_place / "kgrank.toml").write_text("[graph]\npassword = [123456]\n")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "123456" not in str(caught.value)


def test_a_named_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_settings(Path("nowhere.toml"))
