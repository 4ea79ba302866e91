"""A backup taken while a server writes, and put back; nobody who was erased comes back with it."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kg import backup as graph_backup
from kg.erasure import erase_user
from kg.errors import BackupError, DataError, GraphDiskError, GraphError
from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.store import Graph
from kgrank.client import Client, event
from kgrank.errors import NotFoundError
from server import backup as backups
from server.backup import backup, restore
from server.errors import JournalError
from server.journal import Journal
from server.journal_file import JournalFile, WrittenSearch
from server.remembered import NOTE
from tests.conftest import empty
from tests.kg.small_tables import same_rows
from tests.server.command import CommandLine
from tests.server.running import running
from tests.server.shop import tables
from tests.server.unknown_kind import of_unknown_kind
from tests.waiting import until

pytestmark = pytest.mark.neo4j


@pytest.mark.parametrize(("drop_newer", "kept"), [(False, ["after", "before"]), (True, ["before"])])
def test_what_is_backed_up_is_restored_and_the_journal_gives_the_rest(
    home: Path, tmp_path: Path, graph: Graph, drop_newer: bool, kept: list[str]
) -> None:
    graph.load(tables())
    folder = tmp_path / "backup"
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        until(lambda: server.server.graph_open)
        client.write_event(event("keeper", "product-02", "purchase", event_id="before"))
        until(lambda: graph.read("MATCH ()-[r:PURCHASED {event_id: 'before'}]->() RETURN count(r)") == [[1]])
        manifest = backup(home, graph, folder)
        with pytest.raises(JournalError, match="belongs to another server"):
            restore(home, graph, folder, replace=True)
        client.write_event(event("keeper", "product-05", "purchase", event_id="after"))
        client.erase_user("user-01")
    exported, last = graph_backup_tables(graph), graph.last_commit
    assert manifest.graph["commit"] >= 1
    with pytest.raises(BackupError, match="is there already"):
        restore(home, graph, folder, replace=False)
    restore(home, graph, folder, replace=True, drop_newer=drop_newer)
    assert (home / "journal.db").stat().st_mode & 0o077 == 0
    assert graph.read("MATCH (u:User {id: 'keeper'})-[r]->() RETURN r.event_id") == [["before"]]
    # No number is given twice, and who was erased after the backup was taken is not in it any more.
    assert graph.last_commit > last
    assert graph.read("MATCH (u:User {id: 'user-01'}) RETURN count(u)") == [[0]]
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        until(lambda: count_of(client, "keeper") == len(kept))
        client.write_event(event("keeper", "product-07", "purchase", event_id="later"))
        found = "MATCH (:User {id: 'keeper'})-[r]->() RETURN r.event_id ORDER BY r.event_id"
        until(lambda: graph.read(found) == [[each] for each in sorted([*kept, "later"])])
        assert client.recommend("user-02", k=3).results
    assert [path for path in home.rglob("*") if path.is_file() and b"user-01" in path.read_bytes()] == []
    assert exported > 0


def test_tokens_come_back_to_a_home_without_any_and_no_revoked_one_to_another(
    home: Path, tmp_path: Path, graph: Graph
) -> None:
    graph.load(tables())
    tokens = home / "tokens.json"
    tokens.write_text("then", encoding="utf-8")
    backup(home, graph, tmp_path / "backup")
    tokens.write_text("now", encoding="utf-8")
    restore(home, graph, tmp_path / "backup", replace=True)
    assert tokens.read_text(encoding="utf-8") == "now"
    tokens.unlink()
    restore(home, graph, tmp_path / "backup", replace=True)
    assert tokens.read_text(encoding="utf-8") == "then"


class Full:
    """Progress that ends as a full disk does, once some nodes or relationships are restored."""

    def __init__(self, when: str) -> None:
        self.when = when

    def advance(self, count: int = 1, note: str = "") -> None:
        if note == self.when:
            raise GraphDiskError("the graph can't write: its disk is full")


@pytest.mark.parametrize("when", ["nodes", "relationships"])  # the latter with the backup's own erasures
def test_a_restore_that_was_stopped_and_is_run_again_brings_nobody_back(
    tmp_path: Path, graph: Graph, when: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    graph.load(tables())
    erase_user(graph, "user-02", at_ms=1)
    graph.load(tables())  # its events are later, and new
    backup(home, graph, tmp_path / "backup")
    # Elsewhere: no journal of this home hears of it.
    erase_user(graph, "user-01")
    erase_user(graph, "user-02", at_ms=1 << 45)
    for _ in range(9):
        graph.commit(lambda commit: None)
    last = graph.last_commit
    for _ in range(2):
        with pytest.raises(GraphDiskError):
            restore(home, graph, tmp_path / "backup", replace=True, progress=Full(when))
    assert graph.last_commit < last
    assert (home / NOTE).stat().st_mode & 0o777 == 0o600
    restore(home, graph, tmp_path / "backup", replace=True)
    users = graph.read("MATCH (u:User) WHERE u.id IN ['user-01', 'user-02', 'user-03'] RETURN u.id")
    assert users == [["user-03"]]
    assert graph.last_commit > last
    assert graph.read("MATCH (e:Erasure) WHERE e.at = $at RETURN count(e)", at=1 << 45) == [[1]]
    assert not (home / NOTE).exists()


def test_what_a_stopped_restore_left_is_not_passed_over_where_it_can_not_be_read(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    backup(tmp_path, graph, tmp_path / "backup")
    (tmp_path / NOTE).write_text('{"reached": ', encoding="utf-8")
    with pytest.raises(BackupError, match=f"{NOTE} can't be read"):
        restore(tmp_path, graph, tmp_path / "backup", replace=True)
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]


def test_a_graph_is_not_emptied_for_a_backup_that_can_not_be_restored(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    graph.write("CREATE (:Note {on: date('2025-01-31')})")
    folder = tmp_path / "backup"
    backup(tmp_path, graph, folder)
    of_unknown_kind(folder)
    with pytest.raises(DataError, match="is damaged"):
        restore(tmp_path, graph, folder, replace=True)
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]


def count_of(client: Client, user_id: str) -> int:
    try:
        return client.user_profile(user_id).interaction_count
    except NotFoundError:  # it serves after some seconds, even where it has not followed all of the graph by then
        return 0


def graph_backup_tables(graph: Graph) -> int:
    return sum(len(table) for _, table in graph.export())


def test_a_restored_graph_is_the_same_in_every_node_and_relationship(tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    graph.write("MATCH (p:Product {id: 'product-01'}) SET p.embedding = [0.1, 0.25], p.note = 'ünïcode \"q\"\\n'")
    before = graph.export()
    counts = graph_backup.dump(graph, tmp_path)
    with pytest.raises(GraphError, match="not empty"):
        graph_backup.restore(graph, tmp_path)
    empty(graph)
    graph_backup.restore(graph, tmp_path)
    assert same_rows(graph.export(), before)
    assert graph.read("MATCH (n) RETURN count(n)")[0][0] == counts["nodes"]
    assert graph.read("MATCH ()-[r]->() RETURN count(r)")[0][0] == counts["relationships"]
    assert graph.read("MATCH (p:Product {id: 'product-01'}) RETURN p.embedding, p.note") == [
        [[0.1, 0.25], 'ünïcode "q"\n']
    ]
    assert graph.read("MATCH (n:Restoring) RETURN count(n)") == [[0]]


def test_a_snapshot_that_was_rewritten_while_it_was_copied_is_copied_again(
    home: Path, tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    copies: list[Path] = []
    copytree = shutil.copytree

    def mixed(source: Path, target: Path, **options: Any) -> Path:
        copied = copytree(source, target, **options)
        if source.parent.name == "snapshots":
            copies.append(target)
            if len(copies) == 1:  # a file of the one that took its place
                (target / "history.at_ms.npy").write_bytes(b"another one's")
        return copied

    monkeypatch.setattr("server.backup.shutil.copytree", mixed)
    backup(home, graph, tmp_path / "taken")
    assert len(copies) == 2
    (copy,) = (path for path in (tmp_path / "taken/home/snapshots").iterdir() if path.is_dir())
    assert len(Snapshot.open(copy).users)


def test_while_a_backup_is_read_no_commit_begins(graph: Graph) -> None:
    import threading

    from kg.commits import Commit

    committed = threading.Event()

    def work(commit: Commit) -> None:
        commit.run("CREATE (:Note)")

    def write() -> None:
        graph.commit(work)
        committed.set()

    with graph.commits_held() as number:
        writing = threading.Thread(target=write)
        writing.start()
        assert graph.last_commit == number == 0
        assert graph.read("MATCH (n:Note) RETURN count(n)") == [[0]]
    assert committed.wait(30)
    writing.join()
    assert graph.last_commit == 1


def test_a_damaged_backup_is_refused_before_anything_is_touched(home: Path, tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    folder = tmp_path / "backup"
    backup(home, graph, folder)
    with pytest.raises(BackupError, match="is there already"):
        backup(home, graph, folder)
    (folder / "graph" / graph_backup.NODES).write_bytes(b"damaged")
    with pytest.raises(BackupError, match="is damaged"):
        restore(tmp_path / "new", graph, folder, replace=True)
    with pytest.raises(BackupError, match="is no backup"):
        restore(tmp_path / "new", graph, tmp_path, replace=True)
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]
    empty(graph)
    with pytest.raises(DataError, match="damaged"):
        graph_backup.restore(graph, folder / "graph")


def test_a_graph_that_only_other_homes_wrote_to_is_not_replaced_by_mistake(
    home: Path, tmp_path: Path, graph: Graph
) -> None:
    graph.load(tables())
    folder = tmp_path / "backup"
    backup(home, graph, folder)
    graph.write("CREATE (:Journal {name: 'in-service', offset: 7})")
    with pytest.raises(BackupError, match="none of them of this home") as refused:
        restore(tmp_path / "trial", graph, folder, replace=True)
    assert "--graph-of-others" in str(refused.value.remedy)
    assert graph.read("MATCH (j:Journal {name: 'in-service'}) RETURN j.offset") == [[7]]
    restore(tmp_path / "trial", graph, folder, replace=True, graph_of_others=True)
    assert graph.read("MATCH (j:Journal {name: 'in-service'}) RETURN j.offset") == []
    restore(tmp_path / "trial", graph, folder, replace=True)  # now it is this home's


def test_folders_that_are_mounts_or_links_stay_where_they_are(home: Path, tmp_path: Path, graph: Graph) -> None:
    graph.load(tables())
    (home / "artifacts").mkdir(exist_ok=True)
    (home / "artifacts" / "LATEST").write_text("one")
    folder = tmp_path / "backup"
    backup(home, graph, folder)
    disk = tmp_path / "disk"
    (disk / "a-later-model").mkdir(parents=True)
    (disk / "LATEST").write_text("two")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "artifacts").symlink_to(disk)
    restore(tmp_path / "new", graph, folder, replace=True)
    assert (tmp_path / "new" / "artifacts").readlink() == disk
    assert (disk / "LATEST").read_text() == "one"
    assert {path.name for path in disk.iterdir()} == {path.name for path in (home / "artifacts").iterdir()}


def test_the_commands_back_up_and_restore(
    home: Path, graph: Graph, graph_folder: Path, tmp_path: Path, kgrank: CommandLine
) -> None:
    graph.load(tables())
    (home / "graph").symlink_to(graph_folder)
    taken = kgrank(home, "backup", str(tmp_path / "backup"))
    assert (taken.code, taken.err) == (0, taken.err)
    assert "relationships" in taken.out
    empty(graph)
    for name in ("snapshots", "artifacts"):
        shutil.rmtree(home / name)
    done = kgrank(home, "restore", str(tmp_path / "backup"))
    assert done.code == 0, done.err
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]
    assert (home / "artifacts" / "ACTIVE").exists() or list((home / "artifacts").iterdir())
    again = kgrank(home, "restore", str(tmp_path / "backup"))
    assert again.code == 1
    assert "--replace" in again.err


def test_no_server_starts_before_a_restore_is_at_its_end(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    names = ["journal-1.db", "journal.db"]
    for name in names:
        Journal(home / name).close()
    assert backup(home, graph, folder).journals == names
    (home / names[0]).unlink()  # of a process that the backup has
    put_in_place = backups._replace_files
    refused: list[str] = []

    def meanwhile(*given: Path) -> None:
        for name in names:
            with pytest.raises(JournalError, match="belongs to another server"):
                Journal(home / name)
            refused.append(name)
        put_in_place(*given)

    monkeypatch.setattr(backups, "_replace_files", meanwhile)
    for drop_newer in (False, True):
        restore(home, graph, folder, replace=True, drop_newer=drop_newer)
        for name in names:
            Journal(home / name).close()
    assert refused == names * 2


def test_a_refused_restore_leaves_no_journal_that_the_next_would_find(tmp_path: Path, graph: Graph) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    Journal(home / "journal.db").close()
    backup(home, graph, folder)
    graph.write("CREATE (:Note)")
    for _ in range(2):
        with pytest.raises(GraphError, match="the graph is not empty"):
            restore(tmp_path / "new", graph, folder, replace=False)
    empty(graph)
    restore(tmp_path / "new", graph, folder, replace=False)
    assert (tmp_path / "new" / "journal.db").exists()


def test_a_search_that_is_handed_over_during_a_backup_is_in_it(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    Journal(home / "journal-1.db").close()
    journal = Journal(home / "journal.db")
    journal.append_search(WrittenSearch("s1", "ann", "tea", 1)).result()
    copy = backups._copy_journal
    waits = "SHOW TRANSACTIONS YIELD status WHERE status STARTS WITH 'Blocked' RETURN status"
    draining: list[Thread] = []

    def hand_over() -> None:
        graph.append_searches([("s1", "ann", "tea", 1)])
        journal.forget_searches([*journal.searches(10)])

    def meanwhile(path: Path, to: Path) -> str:
        if not draining:  # the other process's journal, the first
            draining.append(Thread(target=hand_over))
            draining[0].start()
            until(lambda: bool(graph.read(waits)) or not draining[0].is_alive())
        return copy(path, to)

    monkeypatch.setattr(backups, "_copy_journal", meanwhile)
    backup(home, graph, folder)
    draining[0].join()
    journal.close()
    assert JournalFile(folder / "home" / "journal.db").searches_waiting() == 1
    assert graph.read("MATCH (:User {id: 'ann'})-[r:SEARCHED]->(q) RETURN q.text") == [["tea"]]


def test_only_its_owner_can_read_a_backup(tmp_path: Path, graph: Graph) -> None:
    backup(tmp_path, graph, tmp_path / "some" / "backup")
    assert (tmp_path / "some" / "backup").stat().st_mode & 0o777 == 0o700


def test_who_was_erased_since_is_taken_out_of_the_snapshots_that_are_restored(tmp_path: Path, graph: Graph) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    given = tables()
    graph.load(given)
    freeze(given, commit=graph.last_commit).save(home / "snapshots" / "then")
    backup(home, graph, folder)
    erase_user(graph, "user-01")
    restore(home, graph, folder, replace=True)
    users = Snapshot.open(home / "snapshots" / "then").users.array.to_pylist()
    assert "user-02" in users
    assert "user-01" not in users
