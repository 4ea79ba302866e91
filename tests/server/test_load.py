"""`kgrank load`: what a terminal shows, what is in the graph after, and that nothing is loaded when the check fails."""

import errno
import json
import os
from pathlib import Path

import pytest

from kg.store import Graph
from tests.server.command import CommandLine

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SHOP_FILES = [
    argument
    for name in ("interactions", "products", "facts", "users")
    for argument in (f"--{name}", str(SHOP / f"{name}.csv"))
]


@pytest.mark.neo4j
def test_shop_is_loaded_and_a_second_load_changes_nothing(kgrank: CommandLine, graph_home: Path, graph: Graph) -> None:
    done = kgrank(graph_home, "load", "tables", *SHOP_FILES, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    kept = {name: count["kept"] for name, count in report["tables"].items()}
    assert report["loaded"] is True
    first = graph.export()
    assert {name: len(table) for name, table in first} == kept
    assert kgrank(graph_home, "load", "tables", *SHOP_FILES).code == 0
    assert all(table.equals(getattr(first, name)) for name, table in graph.export())


@pytest.mark.neo4j
def test_events_alone_leave_the_products_as_they_were(
    kgrank: CommandLine, graph_home: Path, graph: Graph, tmp_path: Path
) -> None:
    assert kgrank(graph_home, "load", "tables", "--products", str(SHOP / "products.csv")).code == 0
    events = tmp_path / "events.csv"
    events.write_text("user_id,product_id,type,at_ms\nann,beans-001,view,1736473513905\nann,new,view,1736473513906\n")
    done = kgrank(graph_home, "load", "tables", "--interactions", str(events))
    assert done.code == 0, done.err
    rows = graph.read("MATCH (:User {id: 'ann'})-[v:VIEWED]->(p) RETURN p.id, p.title, p.brand ORDER BY v.at")
    assert rows == [["beans-001", "Northwind Espresso Beans 1 kg", "Northwind"], ["new", "", ""]]


@pytest.mark.neo4j
def test_events_whose_id_is_one_of_another_type_are_counted(
    kgrank: CommandLine, graph_home: Path, graph: Graph, tmp_path: Path
) -> None:
    named, more, plain = (tmp_path / f"{name}.csv" for name in ("named", "more", "plain"))
    named.write_text("user_id,product_id,type,at_ms,event_id\nann,a,view,1736473513905,e1\n")
    more.write_text(
        "user_id,product_id,type,at_ms,event_id\nann,a,purchase,1736473513905,e1\nann,a,purchase,1736473513906,e2\n"
    )
    plain.write_text("user_id,product_id,type,at_ms\nann,a,click,1736473513905\n")
    assert kgrank(graph_home, "load", "tables", "--interactions", str(named)).code == 0
    both = ["--interactions", str(more), "--interactions", str(plain)]
    for _ in range(2):
        done = kgrank(graph_home, "load", "tables", *both, "--json")
        assert json.loads(done.out)["of_another_type"] == 1
        assert "left out 1 events whose id the graph has as an event of another type" in done.err
        found = graph.read("MATCH (:User {id: 'ann'})-[r]->() RETURN type(r) ORDER BY type(r)")
        assert found == [["CLICKED"], ["PURCHASED"], ["VIEWED"]]
    done = kgrank(graph_home, "load", "tables", "--interactions", str(plain), "--json")
    assert [json.loads(done.out)[name] for name in ("erased", "of_another_type")] == [0, 0]


@pytest.mark.neo4j
def test_a_file_with_some_columns_changes_no_others(
    kgrank: CommandLine, graph_home: Path, graph: Graph, tmp_path: Path
) -> None:
    assert kgrank(graph_home, "load", "tables", *SHOP_FILES).code == 0
    before = graph.export()
    links = "MATCH (n)-[r {from_catalogue: true}]->(x) RETURN count(r)"
    linked = graph.read(links)
    user_id = before.users["user_id"][0].as_py()
    (tmp_path / "prices.csv").write_text("product_id,price\nbeans-001,4.5\n")
    (tmp_path / "users.csv").write_text(f"user_id\n{user_id}\n")
    arguments = ["--products", str(tmp_path / "prices.csv"), "--users", str(tmp_path / "users.csv")]
    for _ in range(2):
        done = kgrank(graph_home, "load", "tables", *arguments)
        assert done.code == 0, done.err
        after = graph.export()
        kept = [
            row | ({"price": 4.5} if row["product_id"] == "beans-001" else {}) for row in before.products.to_pylist()
        ]
        assert after.products.to_pylist() == kept
        assert after.users.equals(before.users)
        assert graph.read(links) == linked


def test_too_many_bad_rows_load_nothing_and_leave_a_quarantine_file(kgrank: CommandLine, tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text("user_id,product_id,type,at_ms\nann,p1,view,1736473513905\n,p1,view,1736473513905\n")
    home, report = tmp_path / "home", tmp_path / "report.json"
    done = kgrank(home, "load", "tables", "--interactions", str(events), "--report", str(report))
    assert done.code == 1
    assert "1 of 2 rows (50.0%) are bad, more than 5.0%" in done.err
    assert "nothing was loaded" in done.err
    assert "Traceback" not in done.err
    quarantine = home / "quarantine" / "tables.jsonl"
    assert json.loads(quarantine.read_text())["rule"] == "id_empty"
    assert quarantine.stat().st_mode & 0o777 == 0o600
    assert json.loads(report.read_text())["tables"]["interactions"]["refused"] == 1
    assert not (home / "graph").exists()
    # The same file is loadable when its owner says so.
    assert kgrank(home, "load", "tables", "--interactions", str(events), "--max-bad", "50%", "--check-only").code == 0


def test_a_report_is_whole_or_not_there(kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    report = tmp_path / "report.json"
    report.write_text("of yesterday")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = kgrank(tmp_path / "home", "load", "tables", *SHOP_FILES, "--check-only", "--report", str(report))
    assert (done.code, "No space left" in done.err) == (1, True)
    assert (report.read_text(), list(tmp_path.iterdir())) == ("of yesterday", [report])
    latest = tmp_path / "latest.json"
    latest.symlink_to(report)
    assert kgrank(tmp_path, "load", "tables", *SHOP_FILES, "--check-only", "--report", str(latest)).code == 0
    assert latest.is_symlink()
    assert json.loads(report.read_text())["tables"]["products"]["refused"] == 0


def test_check_only_loads_nothing(kgrank: CommandLine, tmp_path: Path) -> None:
    done = kgrank(tmp_path, "load", "tables", *SHOP_FILES, "--check-only", "--json")
    assert done.code == 0
    assert json.loads(done.out)["loaded"] is False
    assert list(tmp_path.iterdir()) == []


def test_personal_data_stay_out_of_what_is_printed(kgrank: CommandLine, tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text(
        "user_id,product_id,type,at_ms\nann@example.com,p1,stare,1736473513905\nbob,p1,view,1736473513905\n"
    )
    done = kgrank(tmp_path / "home", "load", "tables", "--interactions", str(events), "--max-bad", "1", "--check-only")
    assert "type_unknown" in done.out
    assert "ann@example.com" not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tables"], "no table is given"),
        (["tables", "--users", "nowhere.csv"], "does not exist"),
        (["tables", "--users", "nowhere.csv", "--max-bad", "many"], "not a share"),
        (["tables", "--users", "nowhere.csv", "--max-bad", "120%"], "not between 0 and 1"),
        (["tables", "--users", "nowhere.csv", "--outside", "facts=keep"], "TABLE=POLICY"),
        (["tables", "--users", "nowhere.csv", "--outside", "users=drop"], "no outside policy"),
        (["tables", "--users", "nowhere.csv", "--map", "users=id"], "TABLE.COLUMN=VALUE"),
        (["tables", "--users", "nowhere.csv", "--map-file", "nowhere.toml"], "can't be read"),
        (["amazon"], "no file is given"),
        (["amazon", "nowhere.json"], "does not exist"),
        (["recbole", "nowhere"], "does not exist"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_1(
    arguments: list[str], said: str, kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = kgrank(tmp_path, "load", *arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("source", ["completejourney", "amazon", "recbole", "tables"])
def test_help_has_an_example(source: str, kgrank: CommandLine, tmp_path: Path) -> None:
    done = kgrank(tmp_path, "load", source, "--help")
    assert done.code == 0
    assert f"Example: kgrank load {source}" in " ".join(done.out.split())
