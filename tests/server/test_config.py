"""Settings: precedence, ranges, secrets."""

import subprocess
import sys
from pathlib import Path

import pytest

from kg.config import GraphSettings
from kg.errors import ConfigError
from server.cli.config import settings_table
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
    assert (serve.port, serve.max_results, serve.max_batch) == (7000, 50, 16)


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


@pytest.mark.parametrize("text", ["[graph]\npassword = [123456]\n", '[graph]\npasswrd = "123456"\n'])
def test_a_bad_password_is_not_shown(empty_place: Path, text: str) -> None:
    (empty_place / "kgrank.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"setting graph\.pass") as caught:
        load_settings()
    assert "123456" not in str(caught.value)


def test_a_list_in_a_variable_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_MODEL__EXCLUDE_RELATIONS", '["ALSO_BOUGHT"]')
    assert list(load_settings().model.exclude_relations) == ["ALSO_BOUGHT"]
    monkeypatch.setenv("KGRANK_MODEL__EXCLUDE_RELATIONS", "ALSO_BOUGHT")
    with pytest.raises(ConfigError, match="KGRANK_MODEL__EXCLUDE_RELATIONS can't be read") as caught:
        load_settings()
    assert '["ALSO_BOUGHT"]' in caught.value.remedy


def test_a_named_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_settings(Path("nowhere.toml"))


def test_a_password_is_not_printed_and_not_saved_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD", "secret-word")
    for command in (["config"], ["config", "--json"]):
        shown = run_kgrank(*command).stdout
        assert "secret-word" not in shown
    assert "# password = (set, not shown)" in run_kgrank("config").stdout


def test_printed_settings_read_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "copy.toml").write_text(run_kgrank("config").stdout)
    assert run_kgrank("--config", "copy.toml", "config", "--json").stdout == run_kgrank("config", "--json").stdout


def test_the_page_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page.endswith("\n".join(settings_table()) + "\n"), "append the output of: kgrank config --markdown"


def test_a_mistake_ends_in_one_sentence_without_a_traceback() -> None:
    done = run_kgrank("--config", "nowhere.toml", "config", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere.toml does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_can_not_be_written_ends_in_one_sentence() -> None:
    done = run_kgrank("demo", "--home", "/sys/kgrank", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: /sys/kgrank can't be used: ")
    assert "KGRANK_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def run_kgrank(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "server.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)
