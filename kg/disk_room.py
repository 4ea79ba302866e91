"""Room on the disk of the embedded Neo4j: it is not written to once there is little.

A Neo4j whose disk fills up under a transaction can't go on, not even to answer reads, before it was started again.
"""

import shutil
from pathlib import Path

from kg.errors import GraphFullError

STARTS_WITH_MIB = 16
"""What a start takes at least: Neo4j would try for ever to recover on a full disk."""

WRITES_WITH_MIB = 64
"""What has to be free for a transaction: many times what the largest of ours takes in logs and pages."""


def refuse_full(folder: Path, needed_mib: int = WRITES_WITH_MIB) -> None:
    """Do nothing, if the disk of a folder has room.

    Args:
        folder: the embedded Neo4j's.
        needed_mib: what has to be free.

    Raises:
        GraphFullError: it has not.
    """
    free_mib = shutil.disk_usage(folder).free // 2**20
    if free_mib < needed_mib:
        raise GraphFullError(
            f"the disk of {folder} is full: {free_mib} MiB are free and the embedded Neo4j needs {needed_mib}",
            "Free some space there, or choose another home: KGRANK_HOME. What runs goes on by itself.",
        )
