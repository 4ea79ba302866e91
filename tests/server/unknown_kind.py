"""A backup as whole as its digests say, and yet with a value of a kind that is not known."""

import gzip
import hashlib
import json
from pathlib import Path

from kg import backup as graph_backup
from server.backup import MANIFEST


def of_unknown_kind(folder: Path) -> None:
    """Write the dates of a backup as what no version of ours writes."""
    nodes = folder / "graph" / graph_backup.NODES
    nodes.write_bytes(gzip.compress(gzip.decompress(nodes.read_bytes()).replace(b'"date"', b'"day"')))
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][f"graph/{nodes.name}"] = hashlib.blake2b(nodes.read_bytes(), digest_size=16).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
