"""`kgrank doctor` on what the host gives: disks, rights and open files."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server.journal import Journal
from tests.server.command import CommandLine
from tests.server.test_doctor import any_port as any_port
from tests.server.test_doctor import found, of
from tests.small_disk import small_disk


def test_a_full_or_closed_disk_behind_a_link_is_told(kgrank: CommandLine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with small_disk(tmp_path / "disk", "8m") as disk:
        for name in ("artifacts", "snapshots"):
            (disk / name).mkdir()
            (home / name).symlink_to(disk / name)
        code, findings = found(kgrank, home)
        assert code == 1
        assert len([each for each in findings if each["check"] == "disk"]) == 2  # home's own, and this one once
        assert f"0.0 GiB of {disk}/artifacts's disk are free" in of(findings, "disk", "problem")
        assert of(findings, "home", "problem") == ""
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        told = of(found(kgrank, home)[1], "home", "problem")
        assert [f"{disk / name} can't be written" in told for name in ("artifacts", "snapshots")] == [True, True]


def test_a_home_that_this_user_may_not_enter_is_told(
    kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    stat, access = os.stat, os.access

    def closed(path: Any, **options: Any) -> os.stat_result:
        if not isinstance(path, int) and home in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    home.mkdir()
    monkeypatch.setattr(os, "stat", closed)  # root may enter any
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home and access(path, mode))
    assert f"{home} can't be written by this user" in of(found(kgrank, home)[1], "home", "problem")


def test_a_journal_of_a_further_process_that_all_can_read_is_told(kgrank: CommandLine, tmp_path: Path) -> None:
    for name in ("journal.db", "journal-1.db"):
        Journal(tmp_path / name).close()
    assert of(found(kgrank, tmp_path)[1], "permissions", "warning") == ""
    (tmp_path / "journal-1.db").chmod(0o644)
    assert of(found(kgrank, tmp_path)[1], "permissions", "warning").endswith("journal-1.db")


def test_too_few_files_for_the_calls_that_may_come_are_told(
    kgrank: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.open_files.resource.getrlimit", lambda _: (256, 4096))
    monkeypatch.setenv("KGRANK_SERVE__MAX_CALLS", "3000")
    assert "as many files" in of(found(kgrank, tmp_path)[1], "files", "ok")
    monkeypatch.setenv("KGRANK_SERVE__MAX_CALLS", "5000")
    assert "may open 4,096 files; with serve.max_calls = 5,000" in of(found(kgrank, tmp_path)[1], "files", "warning")
