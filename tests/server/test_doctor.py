"""`kgrank doctor`: what it says of a sound installation, and of each way to break one."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from wsgiref.simple_server import make_server

import pytest

from kg.commits import ChangeKind, forget_old_changes
from kg.erasure import Erasure, user_key
from kg.store import Graph
from server.access import tokens
from server.access.roles import Role
from server.journal import Journal
from server.models import ModelFolder
from server.packages import SERVING
from server.traffic import Share, Traffic
from tests.server.certificates import Authority, Issued
from tests.server.command import CommandLine
from tests.server.running import running
from tests.server.shop import Shop, tables


def found(kgrank: CommandLine, home: Path) -> tuple[int, list[dict[str, str]]]:
    done = kgrank(home, "doctor", "--json")
    told = json.loads(done.out)
    assert told["healthy"] == (done.code == 0)
    return done.code, told["findings"]


def of(findings: list[dict[str, str]], check: str, level: str) -> str:
    return "\n".join(each["found"] for each in findings if (each["check"], each["level"]) == (check, level))


@pytest.fixture(autouse=True)
def any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "0")


def test_a_sound_installation_is_in_order_in_words(kgrank: CommandLine, shop: Shop) -> None:
    done = kgrank(shop.home, "doctor")
    assert done.code == 0
    assert "0 broken" in done.err
    for said in ("Java is there", "is whole", "can be written", "does not run now"):
        assert said in done.out


def test_a_remedy_stands_with_each_thing_to_see_to(kgrank: CommandLine, tmp_path: Path) -> None:
    code, findings = found(kgrank, tmp_path / "nothing")
    assert code == 0  # nothing is broken where nothing is
    assert "there is no model" in of(findings, "models", "warning")
    assert all(each["remedy"] for each in findings if each["level"] in ("warning", "problem"))


def test_a_damaged_model_and_one_without_a_snapshot_are_broken(kgrank: CommandLine, home: Path) -> None:
    shutil.rmtree(home / "snapshots")
    code, findings = found(kgrank, home)
    assert (code, "no snapshot to serve" in of(findings, "models", "problem")) == (1, True)
    for weights in (home / "artifacts").glob("*/*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])
    code, findings = found(kgrank, home)
    assert (code, "can't be loaded" in of(findings, "models", "problem")) == (1, True)


def test_a_start_that_would_not_serve_what_was_in_service_is_told(kgrank: CommandLine, home: Path, shop: Shop) -> None:
    (home / "artifacts" / "ACTIVE").write_text("gone")
    told = of(found(kgrank, home)[1], "models", "warning")
    assert f"ACTIVE names model gone, which is not there: a start serves model {shop.versions[1]}" in told


def test_a_trial_whose_model_is_not_there_is_told(kgrank: CommandLine, home: Path, shop: Shop) -> None:
    old, new = shop.versions
    ModelFolder(home / "artifacts").note(Traffic(old, (Share(new, 30.0),)))
    shutil.rmtree(home / "artifacts" / new)
    told = of(found(kgrank, home)[1], "models", "warning")
    assert f"ACTIVE names model {new}, which is not there: a start serves model {old}" in told


def test_a_model_of_another_catalogue_is_broken(kgrank: CommandLine, home: Path) -> None:
    from kg.freeze import freeze

    shutil.rmtree(home / "snapshots")
    other = freeze(tables(30, prefix="other"))
    other.save(home / "snapshots" / "other")
    (home / "snapshots" / "LATEST").write_text("other")
    code, findings = found(kgrank, home)
    assert (code, "it knows 0 of the 30 products" in of(findings, "models", "problem")) == (1, True)


def test_a_damaged_journal_is_broken_and_one_that_does_not_drain_is_told(kgrank: CommandLine, home: Path) -> None:
    Journal(home / "journal.db").close()
    with sqlite3.connect(home / "journal.db") as connection:
        connection.execute(
            "INSERT INTO event (event_id, user_id, product_id, type, at_ms, received_ms)"
            " VALUES ('e', 'u', 'p', 'view', 0, 0)"
        )
    connection.close()
    code, findings = found(kgrank, home)
    assert (code, "1 events of journal.db wait for the graph" in of(findings, "journal", "warning")) == (0, True)
    damaged = bytearray((home / "journal.db").read_bytes())
    damaged[100:8000] = b"\xff" * 7900
    (home / "journal.db").write_bytes(damaged)
    code, findings = found(kgrank, home)
    assert (code, "is damaged" in of(findings, "journal", "problem")) == (1, True)


def test_an_erasure_that_waits_is_told_until_it_is_done(kgrank: CommandLine, home: Path) -> None:
    journal = Journal(home / "journal.db")
    journal.intend_erasure("user-04")
    told = of(found(kgrank, home)[1], "journal", "warning")
    assert "1 erasures of users, written down in journal.db, are not done" in told
    journal.finish_erasure(Erasure(user_key("user-04"), 5, time.time_ns() // 1_000_000))
    assert of(found(kgrank, home)[1], "journal", "warning") == ""
    journal.close()


@pytest.mark.parametrize("left", ["closed", "log", "log and shared"])
def test_a_journal_is_looked_at_and_its_folder_left_as_it_was(kgrank: CommandLine, tmp_path: Path, left: str) -> None:
    made, home = tmp_path / "made" / "journal.db", tmp_path / "home"
    journal = Journal(made)
    files = {"closed": (), "log": ("-wal",), "log and shared": ("-wal", "-shm")}[left]
    if left == "closed":
        journal.close()
    home.mkdir()
    with sqlite3.connect(made) as connection:
        connection.execute(
            "INSERT INTO event (event_id, user_id, product_id, type, at_ms, received_ms)"
            " VALUES ('e', 'u', 'p', 'view', 0, 0)"
        )
    if left == "closed":
        connection.close()  # what it wrote is in the file then
    for suffix in ("", *files):
        shutil.copyfile(f"{made}{suffix}", home / f"journal.db{suffix}")
    before = sorted(path.name for path in home.iterdir())
    assert "1 events of journal.db wait" in of(found(kgrank, home)[1], "journal", "warning")
    assert sorted(path.name for path in home.iterdir()) == before
    if left != "closed":
        connection.close()
        journal.close()


def test_a_journal_behind_a_link_is_read_with_its_log(kgrank: CommandLine, home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "journal.db"
    journal = Journal(elsewhere)
    with sqlite3.connect(elsewhere) as connection:
        connection.execute(
            "INSERT INTO event (event_id, user_id, product_id, type, at_ms, received_ms)"
            " VALUES ('e', 'u', 'p', 'view', 0, 0)"
        )
    (home / "journal.db").symlink_to(elsewhere)
    assert "1 events of journal.db wait" in of(found(kgrank, home)[1], "journal", "warning")
    connection.close()
    journal.close()


def test_a_journal_that_can_t_be_opened_is_not_called_damaged(kgrank: CommandLine, home: Path) -> None:
    Journal(home / "journal.db").close()
    (home / "journal.db-wal").mkdir()  # as where the rights are missing, which root has all
    code, findings = found(kgrank, home)
    told = next(each for each in findings if (each["check"], each["level"]) == ("journal", "problem"))
    assert code == 1
    assert "journal.db can't be read: " in told["found"]
    assert f"May this user read and write it, the files beside it and {home}?" in told["remedy"]
    assert "damaged" not in of(findings, "journal", "problem")


def test_a_missing_extra_is_told_with_what_installs_it(
    kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__WATCH__TRACES_TO", "collector:4317")
    assert not of(found(kgrank, home)[1], "packages", "problem")
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    code, findings = found(kgrank, home)
    assert (code, "the extra `traces` is missing" in of(findings, "packages", "problem")) == (1, True)


@pytest.mark.parametrize("package", ["tantivy", "uvloop"])
def test_what_serve_would_refuse_to_start_without_is_missing(
    package: str, kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, findings = found(kgrank, home)
    assert (code, of(findings, "packages", "problem")) == (1, f"{package} of the extra `server` are missing")
    refused = kgrank(home, "serve", "--port", "0")
    assert refused.code != 0
    assert f"the package {package!r} is not installed" in refused.err


def test_every_package_of_the_extra_for_serving_is_looked_for() -> None:
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    names = {re.split(r"[\[<>=]", each)[0] for each in told["project"]["optional-dependencies"]["server"]} - {"kgrank"}
    brought = packages_distributions()
    assert names <= {name.lower().replace("_", "-") for package in SERVING for name in brought[package]}


def test_open_secrets_and_missing_tokens_are_told(
    kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__ACCESS__REQUIRED", "true")
    code, findings = found(kgrank, home)
    assert (code, "has none" in of(findings, "permissions", "problem")) == (1, True)
    kgrank(home, "token", "create", "shop", "--role", "read")
    (home / "tokens.json").chmod(0o644)
    code, findings = found(kgrank, home)
    assert (code, "everybody on this machine can read" in of(findings, "permissions", "warning")) == (0, True)
    (home / "tokens.json").unlink()
    tokens.create(home / "tokens.json", "shop", [Role.READ], expires_ms=1)
    code, findings = found(kgrank, home)
    assert (code, "all 1 of" in of(findings, "permissions", "problem")) == (1, True)


def test_rules_that_this_user_may_not_read_are_not_to_be_removed(kgrank: CommandLine, home: Path) -> None:
    (home / "rules.json").mkdir()  # as where the rights are missing, which root has all

    def told() -> dict[str, str]:
        return next(each for each in found(kgrank, home)[1] if (each["check"], each["level"]) == ("rules", "problem"))

    assert "can't be read" in told()["found"]
    assert "Remove" not in told()["remedy"]
    (home / "rules.json").rmdir()
    (home / "rules.json").write_text("{")
    assert "damaged" in told()["found"]
    assert "Remove it" in told()["remedy"]


def test_another_user_is_told_to_be_the_server_s(tmp_path: Path) -> None:
    # In a process of its own, which gives up root's rights where it has them.
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o000)
    program = (
        "import os, server.config, server.doctor\n"
        "settings = server.config.load_settings()\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "for each in server.doctor.diagnose(settings):\n"
        "    if each.check == 'home': print(each.found, each.remedy)"
    )
    environment = os.environ | {"KGRANK_HOME": str(home / "inner")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    home.chmod(0o700)
    assert done.stdout.startswith("this user lacks a right: ")
    assert str(home) in done.stdout
    assert "Run the doctor as the user that the server runs as" in done.stdout


def test_an_address_that_can_t_be_had_is_not_called_taken(
    kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "50051")
    monkeypatch.setenv("KGRANK_SERVE__INSECURE_ANYWHERE", "true")
    for host in ("192.0.2.9", "no-such-host.invalid"):
        monkeypatch.setenv("KGRANK_SERVE__HOST", host)
        told = next(each for each in found(kgrank, home)[1] if (each["check"], each["level"]) == ("port", "problem"))
        assert f"can't listen on {host}:50051" in told["found"]
        assert told["remedy"].startswith("Check serve.host")


def test_an_ended_certificate_and_an_open_address_are_broken(
    kgrank: CommandLine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__HOST", "0.0.0.0")
    _, findings = found(kgrank, home)
    assert "without TLS" in of(findings, "service", "problem")
    for days, level in ((-1, "problem"), (3, "warning"), (90, "ok")):
        issued = Authority(tmp_path).issue("server", days=days)
        monkeypatch.setenv("KGRANK_SERVE__TLS__CERTIFICATE_FILE", str(issued.certificate))
        monkeypatch.setenv("KGRANK_SERVE__TLS__KEY_FILE", str(issued.key))
        _, findings = found(kgrank, home)
        assert "the certificate" in of(findings, "tls", level)


def test_a_port_of_ours_is_told_from_a_port_of_somebody_else(
    kgrank: CommandLine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home) as server:
        monkeypatch.setenv("KGRANK_SERVE__PORT", server.target.rpartition(":")[2])
        assert "answers and serves" in of(found(kgrank, home)[1], "port", "ok")
    with running(tmp_path / "empty", ready=False) as server:
        monkeypatch.setenv("KGRANK_SERVE__PORT", server.target.rpartition(":")[2])
        assert "takes no ranking calls now" in of(found(kgrank, home)[1], "port", "warning")
    with make_server("127.0.0.1", 0, lambda asked, answer: []) as other:
        threading.Thread(target=other.serve_forever).start()
        monkeypatch.setenv("KGRANK_SERVE__PORT", str(other.server_port))
        code, findings = found(kgrank, home)
        other.shutdown()
    assert (code, "taken by something else" in of(findings, "port", "problem")) == (1, True)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_listener_that_says_nothing_is_not_called_something_else(
    kgrank: CommandLine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    if encrypted:
        issued = Authority(tmp_path).issue("server")
        monkeypatch.setenv("KGRANK_SERVE__TLS__CERTIFICATE_FILE", str(issued.certificate))
        monkeypatch.setenv("KGRANK_SERVE__TLS__KEY_FILE", str(issued.key))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("KGRANK_SERVE__PORT", str(other.getsockname()[1]))
        code, findings = found(kgrank, home)
    assert (code, "has said nothing for" in of(findings, "port", "problem")) == (1, True)


def test_a_server_with_tls_is_known_by_its_certificate(
    kgrank: CommandLine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    issued, other = authority.issue("server"), authority.issue("other")
    files = {"certificate_file": issued.certificate, "key_file": issued.key}

    def told(port: object, certificate: Issued) -> list[str]:
        monkeypatch.setenv("KGRANK_SERVE__PORT", str(port))
        monkeypatch.setenv("KGRANK_SERVE__TLS__CERTIFICATE_FILE", str(certificate.certificate))
        monkeypatch.setenv("KGRANK_SERVE__TLS__KEY_FILE", str(certificate.key))
        return [f"{each['level']}: {each['found']}" for each in found(kgrank, home)[1] if each["check"] == "port"]

    for mutual in ({}, {"client_ca_file": authority.certificate}):
        with running(home, tls=files | mutual) as server:
            port = server.target.rpartition(":")[2]
            assert "ok: a server at" in told(port, issued)[0]
            assert "warning: " in told(port, other)[0]
            assert "another certificate" in told(port, other)[0]
    with running(home) as server:
        assert "speaks no TLS" in told(server.target.rpartition(":")[2], issued)[0]


@pytest.mark.neo4j
def test_the_graph_is_asked_what_it_holds(kgrank: CommandLine, graph: Graph, graph_home: Path) -> None:
    assert "it holds no products" in of(found(kgrank, graph_home)[1], "graph", "warning")
    graph.load(tables())
    assert "it holds 90 products" in of(found(kgrank, graph_home)[1], "graph", "ok")


@pytest.mark.neo4j
def test_a_snapshot_that_nobody_can_catch_up_from_is_broken(
    kgrank: CommandLine, graph: Graph, graph_home: Path, shop: Shop
) -> None:
    for folder in ("snapshots", "artifacts"):
        shutil.copytree(shop.home / folder, graph_home / folder)
    graph.commit(lambda commit: commit.note(ChangeKind.PRODUCT, "beans-001"))
    assert "no longer knows" not in of(found(kgrank, graph_home)[1], "graph", "problem")
    forget_old_changes(graph, time.time_ns() // 1_000_000 + 60_000)
    code, findings = found(kgrank, graph_home)
    assert (code, "no longer knows what was changed up to commit 1" in of(findings, "graph", "problem")) == (1, True)


def test_a_graph_that_does_not_answer_is_broken(
    kgrank: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_NEO4J_URI", "bolt://127.0.0.1:1")
    monkeypatch.setenv("KGRANK_NEO4J_PASSWORD", "secret-word")
    done = kgrank(home, "doctor")
    assert done.code == 1
    assert "127.0.0.1:1" in done.out
    assert "secret-word" not in done.out + done.err
