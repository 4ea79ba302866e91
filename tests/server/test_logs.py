"""The server's log: lines of one kind, whoever writes them, and nothing raised where they can't be written."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from server.watch.logs import log_to_stderr


def test_the_standard_library_s_log_and_ours_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        log_to_stderr()
        structlog.get_logger("ours").info("said", of='quo"te\n{"event": "forged"}')
        logging.getLogger("asyncio").error("broke\nin two", exc_info=ValueError("a\nb"))
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        logging.basicConfig(handlers=before, force=True)
        structlog.reset_defaults()
    assert [(line["event"], line["level"]) for line in lines] == [("said", "info"), ("broke\nin two", "error")]
    assert lines[1]["logger"] == "asyncio"
    assert "ValueError" in lines[1]["exception"]


LOG_TWO_LINES = """
import logging, structlog
from server.cli import console
from server.watch.logs import log_to_stderr
log_to_stderr()
for _ in range(3):
    console.say("serving")
    structlog.get_logger("ours").error("said", exc_info=ValueError("x" * 100_000))
    logging.getLogger("asyncio").error("told")
print("goes on")
"""


@pytest.mark.parametrize("stderr", ["full disk", "nobody reads"])
def test_a_log_that_can_not_be_written_raises_nothing(stderr: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("wb") as full, os.fdopen(writing, "wb") as unread:
        said = subprocess.run(
            [sys.executable, "-c", LOG_TWO_LINES],
            stderr=full if stderr == "full disk" else unread,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert said.stdout == "goes on\n"
