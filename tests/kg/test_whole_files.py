"""Small files are there whole or not at all, whoever else writes them."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kg.latest import LATEST, latest_in, note_latest
from kg.whole_files import write_whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_replaced_in_a_folder_that_may_not_be_there_yet(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_whole(tmp_path / "deep" / "file", data)
        assert contents(tmp_path / "deep") == {"file": data}


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")
    flushed: list[tuple[int, bytes]] = []
    flush = os.fsync

    def note(descriptor: int) -> None:
        flush(descriptor)
        flushed.append((os.fstat(descriptor).st_ino, (tmp_path / "file").read_bytes()))

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "file", b"new")
    assert flushed == [((tmp_path / "file").stat().st_ino, b"old")]


@pytest.mark.parametrize("stopped_by", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failing_write_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException
) -> None:
    def fail(_descriptor: int) -> None:
        raise stopped_by

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    for name in ("file", "another"):
        with pytest.raises(type(stopped_by)):
            write_whole(tmp_path / name, b"new")
        assert contents(tmp_path) == {"file": b"old"}


def test_a_link_and_a_pipe_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old and long")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path) == {"real": b"new", "link": b"new"}
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDWR)  # both ends: nobody waits for the other
    write_whole(tmp_path / "pipe", b"new")
    assert os.read(end, 10) == b"new"
    os.close(end)


def test_several_may_name_the_newest_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(2)

    def name_it(name: str) -> None:
        start.wait()
        for _ in range(25):
            note_latest(tmp_path, name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(name_it, ("one", "two")))
    assert latest_in(tmp_path) in (tmp_path / "one", tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]


def test_where_none_is_named_there_is_no_newest(tmp_path: Path) -> None:
    assert latest_in(tmp_path) is None
    assert latest_in(tmp_path / "absent") is None
    (tmp_path / LATEST).write_text("\n")
    assert latest_in(tmp_path) is None
