"""A restore that was stopped half-way: nothing takes the graph that it left for the shop's."""

import errno
import json
from pathlib import Path

import pytest

from kg.errors import BackupError, DataError, GraphDiskError
from kg.store import Graph
from server.backup import backup, restore
from server.journal import Journal
from server.remembered import NOTE, Remembered, keep
from tests.conftest import empty
from tests.server.command import CommandLine
from tests.server.shop import tables
from tests.server.unknown_kind import of_unknown_kind


def problems(kgrank: CommandLine, home: Path) -> str:
    done = kgrank(home, "doctor", "--json")
    return "\n".join(each["found"] for each in json.loads(done.out)["findings"] if each["level"] == "problem")


@pytest.mark.parametrize(
    "command",
    [
        ("serve", "--port", "0"),
        ("serve", "--port", "0", "--no-graph", "--processes", "2"),
        ("load", "tables", "--products", "products.csv"),
        ("snapshot",),
        ("publish",),
        ("backup", "another"),
    ],
)
def test_commands_that_take_the_graph_as_whole_refuse_until_the_restore_is_run_again(
    kgrank: CommandLine, tmp_path: Path, command: tuple[str, ...]
) -> None:
    keep(tmp_path, Remembered())
    done = kgrank(tmp_path, *command)
    assert done.code == 1
    assert "a restore was stopped here" in done.err
    assert "kgrank restore DIR --replace" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [NOTE]


@pytest.mark.parametrize("command", [("serve",), ("load", "tables"), ("snapshot",), ("publish",), ("backup",)])
def test_help_is_given_also_while_a_restore_is_stopped(
    kgrank: CommandLine, tmp_path: Path, command: tuple[str, ...]
) -> None:
    keep(tmp_path, Remembered())
    done = kgrank(tmp_path, *command, "--help")
    assert (done.code, done.err) == (0, "")


def test_the_doctor_tells_of_a_restore_that_was_stopped_here(
    kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "0")
    assert "restore" not in problems(kgrank, tmp_path)
    keep(tmp_path, Remembered())
    assert "a restore was stopped here" in problems(kgrank, tmp_path)


class Full:
    """Progress that ends as a full disk does."""

    def advance(self, count: int = 1, note: str = "") -> None:
        raise GraphDiskError("the graph can't write: its disk is full")


@pytest.mark.neo4j
@pytest.mark.parametrize("replace", [True, False])
def test_another_home_sees_that_the_graph_is_half_restored(
    kgrank: CommandLine,
    tmp_path: Path,
    graph: Graph,
    graph_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    replace: bool,
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__PORT", "0")
    home, other = tmp_path / "home", tmp_path / "other"
    for each in (home, other):
        each.mkdir()
    (other / "graph").symlink_to(graph_folder)
    graph.load(tables())
    backup(home, graph, tmp_path / "backup")
    assert "a part of a backup" not in problems(kgrank, other)
    if not replace:
        graph.write("MATCH (n) DETACH DELETE n")
    with pytest.raises(GraphDiskError):
        restore(home, graph, tmp_path / "backup", replace=replace, progress=Full())
    assert "it has a part of a backup" in problems(kgrank, other)
    assert "a restore was stopped here" in kgrank(home, "serve", "--port", "0").err
    restore(home, graph, tmp_path / "backup", replace=True)
    assert "a part of a backup" not in problems(kgrank, other)
    assert not (home / NOTE).exists()


@pytest.mark.neo4j
def test_a_restore_that_was_stopped_as_it_filled_an_empty_home_is_run_again(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    shop, home, folder = tmp_path / "shop", tmp_path / "home", tmp_path / "backup"
    for each in (shop, home):
        each.mkdir()
    Journal(shop / "journal.db").close()
    graph.load(tables())
    graph.write("CREATE (:Journal {name: 'of the shop', offset: 7})")
    backup(shop, graph, folder)
    empty(graph)
    with monkeypatch.context() as patched:
        patched.setattr("server.backup.shutil.copy2", full)
        with pytest.raises(OSError, match="No space left"):
            restore(home, graph, folder, replace=False)
    assert (home / NOTE).exists()
    restore(home, graph, folder, replace=True)
    assert not (home / NOTE).exists()
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]
    assert graph.read("MATCH (n:Restoring) RETURN count(n)") == [[0]]


@pytest.mark.neo4j
def test_a_home_with_a_stopped_restore_does_not_replace_the_graph_of_others(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    graph.write("CREATE (:Journal {name: 'in-service', offset: 7})")
    backup(tmp_path, graph, tmp_path / "backup")
    keep(tmp_path, Remembered())  # another graph was to be filled
    with pytest.raises(BackupError, match="none of them of this home"):
        restore(tmp_path, graph, tmp_path / "backup", replace=True)
    assert graph.read("MATCH (j:Journal {name: 'in-service'}) RETURN j.offset") == [[7]]


@pytest.mark.neo4j
@pytest.mark.parametrize("before", [False, True])
def test_a_restore_that_changed_nothing_leaves_no_note_but_that_of_one_before(
    tmp_path: Path, graph: Graph, before: bool
) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    home.mkdir()
    graph.write("CREATE (:Note {on: date('2025-01-31')})")
    backup(home, graph, folder)
    of_unknown_kind(folder)
    empty(graph)
    if before:
        keep(home, Remembered())
    with pytest.raises(DataError, match="is damaged"):
        restore(home, graph, folder, replace=False)
    assert (home / NOTE).exists() == before
