"""A ledger of every time that a report looked at test data: more than one look is one too many, so they are counted."""

import json
import os
from pathlib import Path
from typing import Any

LEDGER = "test-touched.jsonl"


def note_touch(home: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Note that a report was made on test data, and return what the report says of it.

    Args:
        home: the folder that keeps the ledger.
        document: the report.

    Returns:
        When, and how often the same data sets were touched before from this folder, for reports of other cells.
    """
    ledger = home / LEDGER
    text = ledger.read_text(encoding="utf-8") if ledger.is_file() else ""
    *lines, cut = text.split("\n")  # what stands after the last line break was cut off as it was written
    hashes = sorted(part["hash"] for part in document["data"].values())
    earlier = [told for told in map(json.loads, lines) if set(told["data"]) & set(hashes)]
    cells = sorted(document["cells"])
    others = [told for told in earlier if told["cells"] != cells]
    entry = {"at": document["created_at"], "name": document["name"], "data": hashes, "cells": cells}
    home.mkdir(parents=True, exist_ok=True)
    with ledger.open("r+" if text else "w", encoding="utf-8") as file:
        file.seek(len(text.removesuffix(cut).encode()))
        file.write(json.dumps(entry) + "\n")
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    return {
        "at": document["created_at"],
        "reports_of_other_cells_before": len(others),
        "first": earlier[0]["at"] if earlier else document["created_at"],
    }
