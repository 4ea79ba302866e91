"""What a graph knows and a backup of it may not: who was erased since, and the last commit.

It is in `HOME/restoring.json` from before the graph is emptied until the backup is in its place, so that a restore that
was stopped half-way can be run again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path

from kg.erasure import Erasure
from kg.errors import BackupError

NOTE = "restoring.json"


@dataclass(frozen=True)
class Remembered:
    """The erasures by user key, and the number of the last commit."""

    erasures: Mapping[str, Erasure] = field(default_factory=dict)
    reached: int = 0

    def merged(self, erasures: Iterable[Erasure], reached: int) -> "Remembered":
        """Return it with what another place knows; of a user who was erased more than once, the latest counts."""
        known = dict(self.erasures)
        for each in erasures:
            old = known.get(each.user_key, each)
            known[each.user_key] = Erasure(each.user_key, max(old.commit, each.commit), max(old.at_ms, each.at_ms))
        return Remembered(known, max([self.reached, reached, *(each.commit for each in known.values())]))


def stopped(home: Path) -> bool:
    """Return whether a restore into this home was stopped, or is under way."""
    return os.path.exists(home / NOTE)  # noqa: PTH110  (`Path.exists` raises where this user may not enter home)


def refuse_stopped(home: Path) -> None:
    """Raise where a restore into this home has not come to its end: graph and files are neither the old nor the new.

    Raises:
        BackupError: one was stopped, or is under way.
    """
    if stopped(home):
        raise BackupError(
            f"a restore was stopped here, or is under way: {home / NOTE} is there, and the graph is not whole",
            "Run it again, to its end: kgrank restore DIR --replace; only if the graph is as it was, remove the file",
        )


def recall(home: Path) -> Remembered:
    """Return what a restore that was stopped left here; nothing if none was.

    Raises:
        BackupError: the file can't be read.
    """
    path = home / NOTE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Remembered().merged([Erasure(*each) for each in kept["erasures"]], int(kept["reached"]))
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackupError(
            f"{path} can't be read: {error!r}",
            "A stopped restore left in it who was erased from the graph. Mend it, or remove it if nobody was.",
        ) from error


def keep(home: Path, remembered: Remembered) -> None:
    """Write it down; only its owner may read it.

    Raises:
        BackupError: the file can't be written.
    """
    path = home / NOTE
    partial = path.with_name(f".{NOTE}.{os.getpid()}")
    kept = {"reached": remembered.reached, "erasures": [astuple(each) for each in remembered.erasures.values()]}
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BackupError(f"{path} can't be written: {error}", "Free space; the graph is as it was.") from error


def forget(home: Path) -> None:
    """Remove it: the restore is complete."""
    (home / NOTE).unlink(missing_ok=True)
