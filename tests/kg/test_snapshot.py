"""Saving and opening a snapshot, and what a damaged one says."""

import gc
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from kg import redaction
from kg import snapshot as snapshot_module
from kg.erasure import Erasure, user_key
from kg.errors import SnapshotError
from kg.freeze import freeze
from kg.snapshot import Histories, Snapshot
from tests.kg.test_freeze import SHOP

BUSY = int(np.argmax(np.diff(freeze(SHOP).histories.offsets)))
"""A user with interactions."""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    freeze(SHOP).save(folder)
    return folder


class _Garbage:
    """Needs the collector, and lets other threads in while it goes."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        time.sleep(0)


def test_threads_open_snapshots_at_once_whatever_the_collector_does(saved: Path) -> None:
    def opened(_: int) -> int:
        _Garbage()
        return len(Snapshot.open(saved, verify=False).users)

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(opened, range(1_200)))) == 1
    finally:
        gc.set_threshold(*before)


def test_an_opened_snapshot_equals_the_saved_one(saved: Path) -> None:
    before, after = freeze(SHOP), Snapshot.open(saved)
    assert after.content_hash == before.content_hash
    assert after.counts == before.counts
    assert after.catalogue.equals(before.catalogue)
    assert after.nodes.equals(before.nodes)
    for name in Histories.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(after.histories, name), getattr(before.histories, name))
    for relation, edges in before.facts.items():
        np.testing.assert_array_equal(after.facts[relation].head, edges.head)
        np.testing.assert_array_equal(after.facts[relation].tail, edges.tail)


def test_the_arrays_are_memory_mapped(saved: Path) -> None:
    assert isinstance(Snapshot.open(saved).histories.at_ms, np.memmap)


def test_saving_twice_to_one_folder_is_refused(saved: Path) -> None:
    with pytest.raises(SnapshotError, match="exists already"):
        freeze(SHOP).save(saved)


def test_saving_leaves_nothing_but_the_snapshot(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["shop"]


@pytest.mark.parametrize("name", ["history.at_ms.npy", "products.arrow", "facts.ALSO_BOUGHT.npy"])
def test_a_damaged_file_is_named(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[-1] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(SnapshotError, match=f"{re.escape(name)} is damaged"):
        Snapshot.open(saved)


@pytest.mark.parametrize("times", [1, 2], ids=["another takes its place", "another takes its place and goes again"])
@pytest.mark.parametrize("read", range(len(Histories.__dataclass_fields__)))
def test_what_is_opened_while_another_takes_its_place_is_one_of_the_two(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int, times: int
) -> None:
    whole = Snapshot.open(saved)
    without = redacted_copy(saved, tmp_path / "other" / "shop")
    reads, map_array = iter(range(1_000)), snapshot_module._map_array

    def changed_before_it(path: Path) -> npt.NDArray[Any]:
        if read <= next(reads) < read + times:
            redaction._exchange(without, saved)
        return map_array(path)

    monkeypatch.setattr(snapshot_module, "_map_array", changed_before_it)
    found = Snapshot.open(saved)
    assert next(reads) > len(Histories.__dataclass_fields__) + len(whole.facts), "it was opened again"
    erased = found.users.array[BUSY].as_py().startswith("erased-")
    count, of_one = len(whole.histories.at_ms), int(np.diff(whole.histories.offsets)[BUSY])
    assert (erased, len(found.histories.at_ms)) == ((True, count - of_one) if times == 1 else (False, count))


def redacted_copy(saved: Path, folder: Path) -> Path:
    """Return a copy of a snapshot from which a user was erased."""
    shutil.copytree(saved, folder)
    snapshot = Snapshot.open(saved)
    erasure = Erasure(user_key(snapshot.users.array[BUSY].as_py()), snapshot.commit + 1, 0)
    assert redaction.redact(folder, [erasure])
    return folder


REDACT_AND_DIE = """
import ctypes, os, sys
from pathlib import Path

from kg.erasure import Erasure
from kg.redaction import redact_all

folder, user_key, commit, how = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
failures = []

def between_the_renames(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]) == os.fspath(folder) and not folder.exists():
        if how == "killed":
            os._exit(9)
        failures.append(event)
        if how == "fails on" or len(failures) == 1:
            raise OSError(5, "the disk fails")

ctypes.CDLL = lambda *_, **__: object()  # a system without renameat2
sys.addaudithook(between_the_renames)
redact_all(folder.parent, [Erasure(user_key, commit, 0)])
"""


def redact_and_die(saved: Path, how: str) -> subprocess.CompletedProcess[str]:
    """Take a user out of a snapshot, in a process that does not come to its end, and return how it went."""
    snapshot = Snapshot.open(saved)
    user = snapshot.users.array[BUSY].as_py()
    asked = [str(saved), user_key(user), str(snapshot.commit + 1), how]
    return subprocess.run(
        [sys.executable, "-c", REDACT_AND_DIE, *asked], check=False, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("known", [True, False], ids=["the erasure is known", "the erasure is not known yet"])
def test_a_snapshot_whose_rewriting_was_killed_between_two_renames_is_put_back(saved: Path, known: bool) -> None:
    before = Snapshot.open(saved)
    assert redact_and_die(saved, "killed").returncode == 9
    assert not saved.exists()
    erasure = Erasure(user_key(before.users.array[BUSY].as_py()), before.commit + 1, 0)
    assert redaction.redact_all(saved.parent, [erasure] if known else []) == 0, "it is the redacted one"
    after = Snapshot.open(saved)
    assert (after.content_hash, after.users.array[BUSY].as_py()[:7]) == (before.content_hash, "erased-")
    assert len(after.histories.at_ms) == len(before.histories.at_ms) - int(np.diff(before.histories.offsets)[BUSY])
    assert sorted(path.name for path in saved.parent.iterdir()) == [".erasing.lock", "shop"]


def test_where_the_redacted_one_is_damaged_the_old_one_is_put_back_and_redacted(saved: Path) -> None:
    before = Snapshot.open(saved)
    assert redact_and_die(saved, "killed").returncode == 9
    (redacted,) = saved.parent.glob(".erasing-*/shop")
    (redacted / "users.arrow").write_bytes(b"torn")
    erasure = Erasure(user_key(before.users.array[BUSY].as_py()), before.commit + 1, 0)
    assert redaction.redact_all(saved.parent, [erasure]) == 1
    assert Snapshot.open(saved).users.array[BUSY].as_py().startswith("erased-")


@pytest.mark.parametrize(("how", "there"), [("fails once", True), ("fails on", False)])
def test_a_snapshot_whose_second_rename_fails_is_put_back(saved: Path, how: str, there: bool) -> None:
    done = redact_and_die(saved, how)
    assert "SnapshotError: snapshots can't be rewritten" in done.stderr
    assert "the disk fails" in done.stderr
    assert saved.exists() == there
    redaction.redact_all(saved.parent, [])
    assert Snapshot.open(saved).content_hash == freeze(SHOP).content_hash


def test_a_snapshot_that_was_removed_after_its_rewriting_stays_removed(saved: Path) -> None:
    holder = saved.parent / ".erasing-x"
    holder.mkdir()
    saved.rename(holder / "shop.old")  # both renames were done, and then the process was killed
    assert redaction.redact_all(saved.parent, []) == 0
    assert [path.name for path in saved.parent.iterdir()] == [".erasing.lock"]


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "nodes.arrow").unlink()
    with pytest.raises(SnapshotError, match=r"nodes\.arrow is missing"):
        Snapshot.open(saved)


def test_another_schema_version_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 0}))
    with pytest.raises(SnapshotError, match="schema version 0; this kgrank reads 2"):
        Snapshot.open(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_a_damaged_manifest_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(SnapshotError, match="is damaged"):
        Snapshot.open(saved)


def test_a_folder_without_a_manifest_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        Snapshot.open(tmp_path)


def test_users_whom_facts_named_in_older_snapshots_are_erased_there_too(tmp_path: Path) -> None:
    snapshot = freeze(SHOP)
    user_id = snapshot.users.array[BUSY].as_py()
    of_kinds = (("user", "only-in-facts"), ("user", user_id), ("brand", user_id))
    nodes = [{"kind": kind, "id": name, "name": name} for kind, name in of_kinds]
    named = pa.concat_tables([snapshot.nodes, pa.Table.from_pylist(nodes, snapshot.nodes.schema)])
    replace(snapshot, nodes=named).save(tmp_path / "old")
    for name in (user_id, "only-in-facts"):
        assert redaction.redact(tmp_path / "old", [Erasure(user_key(name), snapshot.commit + 1, 0)])
    other, user, brand = Snapshot.open(tmp_path / "old").nodes.to_pylist()[-3:]
    assert other["id"] == other["name"] != "only-in-facts"
    assert user["id"] == user["name"] == Snapshot.open(tmp_path / "old").users.array[BUSY].as_py() != user_id
    assert brand == nodes[2]
