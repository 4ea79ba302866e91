"""A ledger of every time that a report looked at test data: more than one look is one too many, so they are counted."""

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from model.case import Case

LEDGER = "test-touched.jsonl"


def answers_digest(case: Case) -> str:
    """Return a digest of who is asked when, and of the right answers: other facts or texts leave it as it is."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (case.user_index, case.now_ms, case.truth_offsets, case.truth_product_index):
        digest.update(part.tobytes())
    return digest.hexdigest()


def note_touch(home: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Note that a report was made on test data, and return what the report says of it.

    Args:
        home: the folder that keeps the ledger.
        document: the report.

    Returns:
        When, and how often the same answers were looked at before from this folder, for reports of other cells.
    """
    ledger = home / LEDGER
    hashes, cells = sorted(part["hash"] for part in document["data"].values()), sorted(document["cells"])
    entry = {"at": document["created_at"], "name": document["name"], "data": hashes, "answers": document["answers"]}
    entry |= {"cells": cells}
    home.mkdir(parents=True, exist_ok=True)
    with ledger.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = file.read().split("\n")
        # A kill may have cut the last line short: the next one begins on a line of its own.
        file.write(("\n" if lines[-1] else "") + json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
    # Older entries tell of their data sets only.
    earlier = [
        told
        for told in map(_read, lines)
        if told is not None
        and (set(told["answers"]) & set(document["answers"]) if "answers" in told else set(told["data"]) & set(hashes))
    ]
    others = [told for told in earlier if told["cells"] != cells]
    return {
        "at": document["created_at"],
        "reports_of_other_cells_before": len(others),
        "first": earlier[0]["at"] if earlier else document["created_at"],
    }


def _read(line: str) -> dict[str, Any] | None:
    """Return an entry; None of a line that was cut short."""
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return told
