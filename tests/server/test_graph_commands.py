"""`kgrank graph` and `kgrank snapshot` as a user types them, against the real Neo4j."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kg.errors import ConfigError
from kg.schema import quoted
from kg.snapshot import Snapshot
from kg.store import Graph
from server.cli.snapshot import parse_moment_ms
from tests.kg.small_tables import SMALL

pytestmark = pytest.mark.neo4j


def kgrank(home: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.main", *arguments],
        env={"KGRANK_HOME": str(home), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shell_reads_from_an_argument_or_from_standard_input(graph: Graph, graph_home: Path) -> None:
    graph.load(SMALL)
    done = kgrank(graph_home, "graph", "shell", "MATCH (u:User) RETURN u.id AS id ORDER BY id LIMIT 1", "--json")
    assert json.loads(done.stdout)["rows"] == [["ann"]]
    done = kgrank(graph_home, "graph", "shell", "--json", typed="RETURN 1 AS a;\nRETURN\n 2 AS b;\nRETURN 3 AS c")
    assert [json.loads(line)["rows"] for line in done.stdout.splitlines()] == [[[1]], [[2]], [[3]]]


def test_a_number_that_json_lacks_is_null(graph: Graph, graph_home: Path) -> None:
    done = kgrank(graph_home, "graph", "shell", "RETURN 0.0/0.0 AS x, [1.0/0.0, 2.0] AS y", "--json")
    assert json.loads(done.stdout, parse_constant=pytest.fail)["rows"] == [[None, [None, 2.0]]]


def test_the_shell_writes_only_when_told_to(graph: Graph, graph_home: Path) -> None:
    done = kgrank(graph_home, "graph", "shell", "CREATE (:User {id: 'x'})")
    assert done.returncode == 1
    assert "--write" in done.stderr
    assert "Traceback" not in done.stderr
    assert graph.read("MATCH (u:User) RETURN count(u)") == [[0]]
    assert kgrank(graph_home, "graph", "shell", "--write", "CREATE (:User {id: 'x'})").returncode == 0
    assert graph.read("MATCH (u:User) RETURN u.id") == [["x"]]


def test_a_snapshot_of_an_unchanged_graph_is_the_same_snapshot(graph: Graph, graph_home: Path) -> None:
    graph.load(SMALL)
    first, second = (json.loads(kgrank(graph_home, "snapshot", "--json").stdout) for _ in range(2))
    assert (first["new"], second["new"]) == (True, False)
    assert first["content_hash"] == second["content_hash"]
    assert (graph_home / "snapshots" / "LATEST").read_text().strip() == first["name"]
    graph.write("MATCH (p:Product {id: 'cup'}) SET p.title = 'Mug'")
    assert json.loads(kgrank(graph_home, "snapshot", "--json").stdout)["new"] is True


def test_a_snapshot_is_of_the_commit_at_which_it_was_last_exported_whatever_it_leaves_out(
    graph: Graph, graph_home: Path
) -> None:
    graph.load(SMALL)
    for commit, asked, followed in ((3, ("--as-of", "1970-01-01"), 0), (5, ("--as-of", "1970-01-01"), 0), (7, (), 7)):
        graph.advance_commits(commit)
        done = kgrank(graph_home, "snapshot", "--json", *asked)
        snapshot = Snapshot.open(Path(json.loads(done.stdout)["folder"]))
        assert (snapshot.commit, snapshot.followed_commit) == (commit, followed)
    assert len(list((graph_home / "snapshots").glob("[!.]*/"))) == 1


def test_a_damaged_snapshot_is_put_aside_and_written_anew(graph: Graph, graph_home: Path) -> None:
    graph.load(SMALL)
    name = json.loads(kgrank(graph_home, "snapshot", "--json").stdout)["name"]
    folder = graph_home / "snapshots" / name
    (folder / "users.arrow").write_bytes(b"")
    done = kgrank(graph_home, "snapshot", "--json")
    assert json.loads(done.stdout)["new"] is True
    assert "users.arrow is damaged" in done.stderr
    assert len(list(folder.parent.glob(f".damaged-{name}-*"))) == 1
    assert Snapshot.open(folder).content_hash.startswith(name)


def test_a_snapshot_without_interactions_is_told_of(graph: Graph, graph_home: Path) -> None:
    done = kgrank(graph_home, "snapshot", "--json")
    assert json.loads(done.stdout)["counts"]["interactions"] == 0
    assert "load some with kgrank load" in done.stderr
    graph.load(SMALL)
    assert "kgrank load" not in kgrank(graph_home, "snapshot").stderr
    assert "no interactions until 1969-01-01" in kgrank(graph_home, "snapshot", "--as-of", "1969-01-01").stderr


def test_a_recipe_that_needs_a_published_model_says_so(graph: Graph, graph_home: Path) -> None:
    graph.load(SMALL)
    asked = ("graph", "recipe", "recommended", "--param", "user=ann", "--json")
    done = kgrank(graph_home, *asked)
    assert json.loads(done.stdout)["rows"] == []
    assert "kgrank publish" in done.stderr
    graph.write("CREATE (:ModelVersion {id: 'm1', active: true, created_at: 0})")
    assert "kgrank publish" not in kgrank(graph_home, *asked).stderr


def test_the_status_counts_what_the_graph_holds(graph: Graph, graph_home: Path) -> None:
    graph.load(SMALL)
    facts = json.loads(kgrank(graph_home, "graph", "status", "--json").stdout)
    assert facts["nodes"]["Product"] == 3
    assert facts["relationships"]["PURCHASED"] == 2


def test_the_status_counts_labels_and_types_of_any_name(graph: Graph, graph_home: Path) -> None:
    name = "a`b\\u0060 {c}"
    graph.write(f"CREATE (:{quoted(name)})-[:{quoted(name)}]->()")
    facts = json.loads(kgrank(graph_home, "graph", "status", "--json").stdout)
    assert (facts["nodes"][name], facts["relationships"][name]) == (1, 1)


def test_a_number_that_is_too_large_for_the_graph_is_said_in_one_sentence(graph: Graph, graph_home: Path) -> None:
    done = kgrank(graph_home, "graph", "recipe", "never_bought", "--param", f"limit={10**20}")
    assert done.returncode == 1
    assert "a number can't be sent to the graph" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("recipe", "param", "least"),
    [("basket_pairs", "hours=0", 1), ("rising_products", "days=-7", 1), ("basket_pairs", "limit=-1", 0)],
)
def test_a_recipe_s_number_below_the_least_is_refused_before_the_graph_is_asked(
    recipe: str, param: str, least: int, tmp_path: Path
) -> None:
    done = kgrank(tmp_path, "graph", "recipe", recipe, "--param", param)
    assert done.returncode == 1
    name, _, value = param.partition("=")
    assert f"recipe parameter {name} can't be {value}\nGive a whole number from {least}." in done.stderr


def test_a_graph_that_does_not_run_is_said_so(tmp_path: Path) -> None:
    done = kgrank(tmp_path, "graph", "status")
    assert done.returncode == 1
    assert "no graph runs" in done.stderr
    assert not (tmp_path / "graph").exists()


def test_a_moment_is_a_whole_day_or_a_time() -> None:
    assert parse_moment_ms("1970-01-01") == 86_400_000 - 1
    assert parse_moment_ms("1970-01-01T00:00:01") == 1_000
    assert parse_moment_ms("1970-01-01T01:00:01+01:00") == 1_000
    assert parse_moment_ms("19700101") == parse_moment_ms("1970-W01-4") == parse_moment_ms("1970W014") == 86_400_000 - 1
    assert parse_moment_ms("2004-06-08T19:12:06.097Z") % 1_000 == 97
    assert parse_moment_ms("1969-12-31T23:59:59.9995") == -1
    assert parse_moment_ms("9999-12-31") == parse_moment_ms("9999-12-31T23:59:59.999")
    with pytest.raises(ConfigError, match="not a date"):
        parse_moment_ms("yesterday")
