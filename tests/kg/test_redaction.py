"""Erased users out of snapshots: damaged ones, those of other versions and what killed writers left among them."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kg import writing
from kg.erasure import Erasure, user_key
from kg.errors import SnapshotError
from kg.freeze import freeze
from kg.redaction import redact_all
from kg.snapshot import Snapshot
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


def no_column(folder: Path) -> None:
    (folder / "nodes.arrow").write_bytes((folder / "users.arrow").read_bytes())


@pytest.mark.parametrize("damage", [no_text, no_rows, another_title, another_version, no_manifest, no_column])
def test_a_snapshot_that_can_t_be_read_is_told_of_and_keeps_no_other_from_being_redacted(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("a", "b", "c"):
        SHOP.save(tmp_path / name)
    damage(tmp_path / "b")
    before = {path: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert redact_all(tmp_path, []) == 0  # nobody was erased
    with pytest.raises(SnapshotError, match=r"snapshot .*/b.*(damaged|version)") as told:
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
