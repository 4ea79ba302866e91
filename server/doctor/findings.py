"""One finding of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: in order; to be seen to; broken; not looked at."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Return that something is in order."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Return that something works, but not for long or not well."""
    return Finding(check, Level.WARNING, found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Return that something is broken."""
    return Finding(check, Level.PROBLEM, found, remedy)


def skipped(check: str, found: str, remedy: str = "") -> Finding:
    """Return that something was not looked at, and why."""
    return Finding(check, Level.SKIPPED, found, remedy)
