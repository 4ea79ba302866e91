"""The quarantine file: whole, private, and written wherever its name leads."""

import json
import os
from pathlib import Path

from kg.quality.quarantine import write_quarantine
from tests.kg.test_quality import EVENT, checked


def test_quarantine_file_is_whole_and_private(tmp_path: Path) -> None:
    result = checked(interactions=[EVENT | {"user_id": "x" * 300}, EVENT])
    place = tmp_path / "deep" / "quarantine.jsonl"
    write_quarantine(place, result.refused)
    assert place.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {
            "table": "interactions",
            "file": "interactions.csv",
            "line": 2,
            "field": "user_id",
            "value": "x" * 200,
            "rule": "id_too_long",
        }
    ]
    assert [path.name for path in place.parent.iterdir()] == ["quarantine.jsonl"]


def test_quarantine_writes_into_a_pipe_and_leaves_it_one(tmp_path: Path) -> None:
    refused = checked(interactions=[EVENT | {"user_id": "x" * 300}, EVENT]).refused
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for place in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_quarantine(place, refused)
        assert b'"id_too_long"' in os.read(reader, 10_000)
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_quarantine_writes_where_a_link_leads_and_nobody_else_reads_it(tmp_path: Path) -> None:
    refused = checked(interactions=[EVENT | {"user_id": "x" * 300}, EVENT]).refused
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    for before in (None, "longer than what is written" * 100):
        if before is not None:
            file.write_text(before)
            file.chmod(0o644)
        write_quarantine(link, refused)
        assert [json.loads(line)["rule"] for line in file.read_text().splitlines()] == ["id_too_long"]
        assert file.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()
