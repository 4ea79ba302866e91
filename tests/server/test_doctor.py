"""`kgrank doctor`: what it says of a sound installation, and of each way to break one."""

import json
import shutil
import socket
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from kg.commits import ChangeKind, forget_old_changes
from kg.store import Graph
from server.journal import Journal
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


def test_a_journal_that_can_t_be_opened_is_not_called_damaged(kgrank: CommandLine, home: Path) -> None:
    Journal(home / "journal.db").close()
    (home / "journal.db-wal").mkdir()  # as where the rights are missing, which root has all
    code, findings = found(kgrank, home)
    told = next(each for each in findings if (each["check"], each["level"]) == ("journal", "problem"))
    assert code == 1
    assert "journal.db can't be read: unable to open database file" in told["found"]
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
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("KGRANK_SERVE__PORT", str(other.getsockname()[1]))
        code, findings = found(kgrank, home)
    assert (code, "taken by something else" in of(findings, "port", "problem")) == (1, True)


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
