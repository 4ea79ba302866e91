"""Resumable parts: whole or not there, one job a folder, any stop is made good."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ModelError
from model.parts import JOB, Job, is_merged, merge, part_path, write_parts

JOB_OF_TEN = Job(items=10, part_size=4, settings={"k": 3})


class Stopped(BaseException):
    """What a stop in the middle looks like from inside."""


def squares(items: range) -> pa.Table:
    return pa.table({"item": list(items), "square": [item * item for item in items]})


def items_in(folder: Path) -> list[int]:
    return [item for path in sorted(folder.glob("*.parquet")) for item in pq.read_table(path)["item"].to_pylist()]


def test_every_item_is_in_one_part(tmp_path: Path) -> None:
    done: list[int] = []
    assert write_parts(tmp_path / "out", JOB_OF_TEN, squares, done.append) == 0
    assert items_in(tmp_path / "out") == list(range(10))
    assert done == [4, 4, 2]
    assert json.loads((tmp_path / "out" / JOB).read_text())["finished"]


def test_a_stopped_run_is_completed_without_doing_anything_twice(tmp_path: Path) -> None:
    folder, made = tmp_path / "out", []

    def stopping(items: range) -> pa.Table:
        if items.start == 4:
            raise Stopped
        return squares(items)

    with pytest.raises(Stopped):
        write_parts(folder, JOB_OF_TEN, stopping)
    assert not json.loads((folder / JOB).read_text())["finished"]

    def noting(items: range) -> pa.Table:
        made.append(items.start)
        return squares(items)

    assert write_parts(folder, JOB_OF_TEN, noting) == 1
    assert made == [4, 8]
    assert items_in(folder) == list(range(10))


def test_a_half_written_part_of_a_killed_run_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_parts(folder, JOB_OF_TEN, squares)
    part_path(folder, 1).rename(folder / ".part-00001.parquet.99")
    write_parts(folder, JOB_OF_TEN, squares)
    assert sorted(path.name for path in folder.iterdir()) == [JOB, *(f"part-0000{part}.parquet" for part in range(3))]


def test_a_run_that_was_killed_as_it_began_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f".{JOB}.99").write_text('{"items": 1')
    write_parts(folder, JOB_OF_TEN, squares)
    assert items_in(folder) == list(range(10))
    assert not list(folder.glob(".*"))


def test_a_stop_at_the_very_end_leaves_what_the_folder_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write_parts(folder, JOB_OF_TEN, squares)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(ModelError, match="No space left"):
            write_parts(folder, JOB_OF_TEN, squares)
    assert write_parts(folder, JOB_OF_TEN, squares) == 3


def test_another_job_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    write_parts(tmp_path / "out", JOB_OF_TEN, squares)
    with pytest.raises(ModelError, match="another run: items, k differ"):
        write_parts(tmp_path / "out", Job(items=11, part_size=4, settings={"k": 4}), squares)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not empty"):
        write_parts(tmp_path, JOB_OF_TEN, squares)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_to_do_still_leaves_the_columns(tmp_path: Path) -> None:
    write_parts(tmp_path / "out", Job(0, 4, {}), squares)
    assert pq.read_table(part_path(tmp_path / "out", 0)).column_names == ["item", "square"]


def test_merged_parts_are_one_file(tmp_path: Path) -> None:
    write_parts(tmp_path / "out", JOB_OF_TEN, squares)
    merge(tmp_path / "out", JOB_OF_TEN, tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(squares(range(10)))
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


@pytest.mark.parametrize("step", range(6))
def test_a_merge_that_was_stopped_at_any_step_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, file = tmp_path / "out", tmp_path / "all.parquet"
    write_parts(folder, JOB_OF_TEN, squares)
    steps = iter(range(100))

    def stopping(of_path: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if next(steps) == step:
                raise Stopped
            return of_path(*arguments)

        return call

    with monkeypatch.context() as killed:
        for name in ("replace", "unlink", "rmdir"):
            killed.setattr(Path, name, stopping(getattr(Path, name)))
        with pytest.raises(Stopped):
            merge(folder, JOB_OF_TEN, file)
    if not is_merged(folder, JOB_OF_TEN, file):
        assert not file.exists()
        write_parts(folder, JOB_OF_TEN, squares)
        merge(folder, JOB_OF_TEN, file)
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]
    assert pq.read_table(file).equals(squares(range(10)))


def test_a_file_of_another_job_or_of_nobody_is_not_taken_for_this_one(tmp_path: Path) -> None:
    folder, file = tmp_path / "out", tmp_path / "all.parquet"
    write_parts(folder, JOB_OF_TEN, squares)
    merge(folder, JOB_OF_TEN, file)
    assert is_merged(folder, JOB_OF_TEN, file)
    assert not is_merged(folder, Job(items=10, part_size=4, settings={"k": 4}), file)
    for write in (lambda: pq.write_table(squares(range(10)), file), lambda: file.write_text("mine")):
        write()
        assert not is_merged(folder, JOB_OF_TEN, file)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't be written"):
        write_parts(tmp_path / "file" / "out", JOB_OF_TEN, squares)
