"""Erased users out of snapshots: damaged ones, those of other versions and what killed writers left among them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kg import writing
from kg.erasure import Erasure, user_key
from kg.errors import SnapshotError
from kg.freeze import freeze
from kg.redaction import are_erased, put_again, redact_all
from kg.snapshot import Snapshot
from kg.vocabulary import Vocabulary
from tests.kg.small_tables import event, tables

SHOP = freeze(
    tables(
        products=[{"product_id": "a", "title": "tea"}, {"product_id": "b"}],
        interactions=[event("e1", "ann", "a"), event("e2", "bob", "b"), event("e3", "carl-caro", "a")],
    ),
    commit=10,
)
ANN = Erasure(user_key("ann"), 20, 1)


def no_text(folder: Path) -> None:
    _replace(folder / "users.arrow", b"carl-caro", b"\xffarl-caro")


def no_rows(folder: Path) -> None:
    offsets = np.load(folder / "history.offsets.npy")
    offsets[2] = -5
    np.save(folder / "history.offsets.npy", offsets)


def another_title(folder: Path) -> None:
    _replace(folder / "products.arrow", b"tea", b"sea")


def another_version(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def no_manifest_at_all(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def no_column(folder: Path) -> None:
    (folder / "nodes.arrow").write_bytes((folder / "users.arrow").read_bytes())


@pytest.mark.parametrize(
    "damage", [no_text, no_rows, another_title, another_version, no_manifest, no_manifest_at_all, no_column]
)
def test_a_snapshot_that_can_t_be_read_is_told_of_and_keeps_no_other_from_being_redacted(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("a", "b", "c"):
        SHOP.save(tmp_path / name)
    damage(tmp_path / "b")
    before = {path: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert redact_all(tmp_path, []) == 0  # nobody was erased
    with pytest.raises(SnapshotError, match=r"/b.*(damaged|version|no manifest)") as told:
        redact_all(tmp_path, [ANN])
    assert "Remove that folder" in told.value.remedy
    assert "carl" not in told.value.problem
    for name in ("a", "c"):
        assert "ann" not in Snapshot.open(tmp_path / name).users
        assert "bob" in Snapshot.open(tmp_path / name).users
    # Damage stays to be seen.
    assert {path: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


SAVE_AND_DIE = """
import os, sys
from pathlib import Path

from tests.kg.test_redaction import SHOP

def at_its_end(event, arguments):
    if event == "open" and str(arguments[0]).endswith("manifest.json"):
        os._exit(9)

sys.addaudithook(at_its_end)
SHOP.save(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("erasures", [[], [ANN]], ids=["nobody", "ann"])
def test_what_a_killed_writer_left_of_a_snapshot_is_removed(tmp_path: Path, erasures: list[Erasure]) -> None:
    folder = tmp_path / "s"
    done = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, str(folder)], check=False, timeout=240)
    assert done.returncode == 9
    assert any(b"ann" in path.read_bytes() for path in tmp_path.rglob("*.arrow"))
    redact_all(tmp_path, erasures)
    assert [path.name for path in tmp_path.iterdir()] == [".erasing.lock"]


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user who has no right to what others keep for themselves."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["exported", ".writing-x", ".erasing-x"])
def test_a_snapshot_that_this_user_may_not_read_counts_as_not_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    snapshots = tmp_path / "snapshots"
    for each in ("a", name):
        SHOP.save(snapshots / each)
    for folder in (tmp_path, snapshots, snapshots / "a"):
        folder.chmod(0o777)
    (snapshots / name).chmod(0)
    monkeypatch.chdir(tmp_path)  # nobody may come through the folders above it
    with nobody(), pytest.raises(SnapshotError, match=f"can't be rewritten in snapshots/{name}: Permission") as told:
        redact_all(Path("snapshots"), [ANN])
    assert "snapshots/a" not in told.value.problem
    assert "ann" not in Snapshot.open(snapshots / "a").users
    (snapshots / name).chmod(0o700)


def test_a_folder_that_has_nothing_of_a_snapshot_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes", "empty", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "ann.txt").write_text("ann")
    SHOP.save(tmp_path / "s")
    assert redact_all(tmp_path, [ANN]) == 1
    assert (tmp_path / "notes" / "ann.txt").read_text() == "ann"


def test_a_redacted_snapshot_is_whole_again_once_its_content_is_exported_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    SHOP.save(folder)
    assert not put_again(replace(SHOP, commit=15), folder)
    assert redact_all(tmp_path, [ANN]) == 1
    assert put_again(replace(SHOP, commit=30), folder)
    whole = Snapshot.open(folder)
    assert ("ann" in whole.users, whole.commit, whole.content_hash) == (True, 30, SHOP.content_hash)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".erasing.lock", "s"]


def test_rows_of_erased_users_are_known_also_of_earlier_versions() -> None:
    of_a_uuid = "erased-0b9d2c51e6f74a1b8c3d0e9f8a7b6c5d"
    ids = [of_a_uuid, f"{of_a_uuid}\x7f", f"{of_a_uuid}0", f"x{of_a_uuid}", "erased-order"]
    assert are_erased(Vocabulary(ids)).tolist() == [True, True, False, False, False]


def test_a_snapshot_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with writing.writing(tmp_path) as partial:
        (partial / "users.arrow").write_bytes(b"ann")
        assert redact_all(tmp_path, [ANN]) == 0
        assert (partial / "users.arrow").exists()
        partial.rename(tmp_path / "named")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".erasing.lock", "named"]


def test_who_came_back_stays_in_a_snapshot_of_an_earlier_moment_that_was_exported_since(tmp_path: Path) -> None:
    replace(SHOP, commit=30, events_commit=0).save(tmp_path / "s")
    assert redact_all(tmp_path, [ANN]) == 0
    opened = Snapshot.open(tmp_path / "s")
    assert (opened.commit, opened.followed_commit) == (30, 0)
    assert redact_all(tmp_path, [replace(ANN, commit=31)]) == 1
    redacted = Snapshot.open(tmp_path / "s")
    assert "ann" not in redacted.users
    assert (redacted.commit, redacted.followed_commit) == (30, 0)


@pytest.mark.parametrize(
    ("saved", "noted", "found"),
    [
        ((10, None), (30, None), (30, 30)),
        ((10, None), (30, 0), (30, 10)),
        ((0, None), (30, 0), (30, 0)),  # as older versions did
        ((20, 0), (30, None), (30, 30)),
        ((30, None), (20, 0), (30, 30)),
    ],
)
def test_a_snapshot_whose_content_is_exported_again_has_the_later_commits(
    tmp_path: Path, saved: tuple[int, int | None], noted: tuple[int, int | None], found: tuple[int, int]
) -> None:
    replace(SHOP, commit=saved[0], events_commit=saved[1]).save(tmp_path / "s")
    replace(SHOP, commit=noted[0], events_commit=noted[1]).note_commit(tmp_path / "s")
    opened = Snapshot.open(tmp_path / "s")
    assert (opened.commit, opened.followed_commit) == found
    # An older version opens what has one commit.
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert ("events_commit" in manifest) == (found[0] != found[1])


def _replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
