"""Settings: precedence, ranges, secrets."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kg.config import GraphSettings
from kg.errors import ConfigError
from server.cli.config import settings_table
from server.config import Settings, load_settings
from server.variables import CLIENT, refuse_unread

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("variable", ["KGRANK_NEO4J_PASSWORD_FILE", "KGRANK_GRAPH__PASSWORD_FILE"])
def test_a_variable_that_names_the_password_s_file_wins_over_a_password_in_the_settings(
    empty_place: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (empty_place / "kgrank.toml").write_text('[graph]\npassword = "old"\nuser = "shop"\n')
    (empty_place / "password").write_text("new\n")
    monkeypatch.setenv(variable, str(empty_place / "password"))
    graph = load_settings().graph
    assert (graph.read_password(), graph.user) == ("new", "shop")
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD", "newest")
    assert load_settings().graph.read_password() == "newest"


@pytest.mark.parametrize("variable", ["KGRANK_NEO4J_PASSWORD", "KGRANK_GRAPH__PASSWORD"])
def test_an_empty_password_is_none(empty_place: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    (empty_place / "password").write_text("from-file")
    monkeypatch.setenv(variable, "")
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD_FILE", str(empty_place / "password"))
    assert load_settings().graph.read_password() == "from-file"
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD_FILE", "")
    with pytest.raises(ConfigError, match="no password is"):
        load_settings().graph.read_password()


def test_a_password_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"password_file .*password is not UTF-8 text \(byte 3\)"):
        GraphSettings(password_file=tmp_path / "password").read_password()


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password_file .*nothing-here can't be read"):
        GraphSettings(password_file=tmp_path / "nothing-here").read_password()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nport = 70000\n", r"setting serve\.port: .*65535 \(got 70000\)"),
        ("[serve]\nprot = 1\n", r"setting serve\.prot: Extra inputs"),
        ("[serve\n", "not valid TOML"),
        *(
            (f"[model]\nrepeat_half_lives_days = [14, {days}]\n", r"setting model\.repeat_half_lives_days\.1: .*than")
            for days in ("0", "-3.5", "nan", "36500.1", "inf")
        ),
    ],
)
def test_a_bad_file_names_field_and_value(empty_place: Path, text: str, message: str) -> None:
    (empty_place / "kgrank.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings()
    assert "`kgrank config`" not in caught.value.remedy  # it is refused as well


def test_a_list_whose_only_value_is_wrong_is_not_told_to_be_too_short(empty_place: Path) -> None:
    (empty_place / "kgrank.toml").write_text("[model]\nrepeat_half_lives_days = [0]\n")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.problem == "setting model.repeat_half_lives_days.0: Input should be greater than 0 (got 0)"


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


@pytest.mark.parametrize(
    ("misspelt", "right"),
    [
        ("KGRANK_SERVE_PRODUCTION", "KGRANK_SERVE__PRODUCTION"),
        ("KGRANK_SERVE_ACCESS__REQUIRED", "KGRANK_SERVE__ACCESS__REQUIRED"),
        ("KGRANK_SERVE__ACCES__REQUIRED", "KGRANK_SERVE__ACCESS__REQUIRED"),
        ("kgrank_serve_production", "KGRANK_SERVE__PRODUCTION"),
        ("KGRANK_NEO4J_PASWORD", "KGRANK_NEO4J_PASSWORD"),
        ("kgrank_neo4j_password", "KGRANK_NEO4J_PASSWORD"),
        ("KGRANK_TOKENFILE", "KGRANK_TOKEN_FILE"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_name_and_without_its_value(
    misspelt: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(misspelt, "secret-word")
    with pytest.raises(ConfigError, match=f"variable {misspelt}: nothing reads it") as caught:
        load_settings()
    assert f"Say {right} instead of {misspelt}." in caught.value.remedy
    assert "secret-word" not in str(caught.value)


def test_a_misspelt_variable_ends_a_command_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_SERVE_PRODUCTION", "secret-word")
    done = run_kgrank("config", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "KGRANK_SERVE__PRODUCTION" in done.stderr
    assert "secret-word" not in done.stderr


def test_every_variable_that_is_unread_is_named() -> None:
    names = {"KGRANK_SERVE_PORT": "6000", "KGRANK_QQQ": "1", "KGRANK_SERVE__PORT": "6001", "KGRANKS": "ours not"}
    with pytest.raises(ConfigError) as caught:
        refuse_unread(names, Settings)
    assert re.findall(r"variable (\w+)", caught.value.problem) == ["KGRANK_QQQ", "KGRANK_SERVE_PORT"]


def test_variables_of_settings_sections_and_clients_are_read() -> None:
    names = ("KGRANK_HOME", "KGRANK_CONFIG", "kgrank_serve__port", "KGRANK_SERVE", "KGRANK_SERVE__ACCESS__JWT", *CLIENT)
    refuse_unread(dict.fromkeys(names, ""), Settings)


def test_what_kubernetes_says_of_a_service_is_passed_over() -> None:
    links = {
        "KGRANK_SERVICE_HOST": "10.0.0.1",
        "KGRANK_SERVICE_PORT": "50051",
        "KGRANK_SERVICE_PORT_GRPC": "50051",
        "KGRANK_PORT": "tcp://10.0.0.1:50051",
        "KGRANK_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "KGRANK_PORT_50051_TCP_PROTO": "tcp",
        "KGRANK_PORT_50051_TCP_PORT": "50051",
        "KGRANK_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    refuse_unread(links, Settings)
    refuse_unread({name.replace("KGRANK", "KGRANK_NEO4J"): value for name, value in links.items()}, Settings)
    # Without such a Service it is a mistake, and beside one a mistake stays one.
    for mistaken in ({"KGRANK_PORT": "6000"}, links | {"KGRANK_SERVE_PORT": "6000"}):
        with pytest.raises(ConfigError, match=r"KGRANK_(SERVE_)?PORT: nothing reads it"):
            refuse_unread(mistaken, Settings)


def test_every_variable_that_the_repository_names_is_read() -> None:
    folders = ("benchmarks", "configs", "deploy", "docs", "examples", "kg", "model", "proto", "server")
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "secrets"} & set(path.parts)  # not of the repository
    ]
    named = {
        name
        for path in [*files, ROOT / "Makefile", ROOT / "README.md", ROOT / ".ci" / "run"]
        for name in re.findall(rb"\bKGRANK_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_bytes())
    }
    assert len(named) > 20
    examples = {b"KGRANK_PORT", b"KGRANK_SERVICE_HOST", b"KGRANK_SERVE_PORT"}  # of Kubernetes, and of what is refused
    refuse_unread({name.decode(): "" for name in named - examples}, Settings)


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
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page.endswith("\n".join(settings_table()) + "\n"), "append the output of: kgrank config --markdown"


def test_a_mistake_ends_in_one_sentence_without_a_traceback() -> None:
    done = run_kgrank("--config", "nowhere.toml", "config", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere.toml does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_utf8_or_has_too_long_a_name_is_named(empty_place: Path) -> None:
    (empty_place / "kgrank.toml").write_bytes(b'home = "caf\xe9"\n')
    with pytest.raises(ConfigError, match=r"kgrank\.toml is not UTF-8 text \(byte 11\)"):
        load_settings()
    with pytest.raises(ConfigError, match=r"configuration file x+ can't be read: File name too long"):
        load_settings(Path("x" * 300))


def test_the_demo_reads_none_of_the_settings(empty_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "70000")
    monkeypatch.setenv("KGRANK_CONFIG", str(empty_place / "gone.toml"))
    done = run_kgrank("demo", "--home", "/sys/kgrank", check=False)
    assert done.stderr.startswith("error: /sys/kgrank can't be used: ")


def test_a_command_goes_on_where_its_streams_are_closed() -> None:
    command = [sys.executable, "-m", "server.main", "config"]
    for closed in (">&-", "<&- >&- 2>&-"):
        done = subprocess.run(["/bin/sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_full_disk_can_not_be_told_ends_nothing() -> None:
    told = "from server.cli.console import say, tell_json; tell_json({'target': 'here:1'}); say('goes on')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", told], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "goes on\n")


def test_a_folder_that_can_not_be_written_ends_in_one_sentence() -> None:
    done = run_kgrank("demo", "--home", "/sys/kgrank", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: /sys/kgrank can't be used: ")
    assert "KGRANK_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_backups_are_tried_beside_the_shop_s_graph_whatever_names_it(
    empty_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```text\n((?:[^`]*\n)?env [^`]* restore backup-of-today)\n```$", page, re.MULTILINE)
    trial = empty_place / "trial"
    asked = command.replace("/tmp/trial", str(trial)).replace("restore backup-of-today", "config --json")
    asked = asked.replace(" kgrank ", f" {sys.executable} -m server.main ")
    Path("kgrank.toml").write_text('graph.uri = "bolt://shop:7687"')
    monkeypatch.setenv("KGRANK_GRAPH__URI", "bolt://shop:7687")
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=120)
    told = json.loads(done.stdout)
    assert (told["graph"].get("uri"), told["home"]) == (None, str(trial))


def run_kgrank(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "server.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)
