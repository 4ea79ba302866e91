"""How every command speaks: tables and progress for people, JSON for machines, one sentence for a mistake."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from kg.errors import KgrankError

_PLAIN_WIDTH = 160
"""Columns of a table where stdout is a file or a pipe."""

out = Console(
    markup=False,
    emoji=False,
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else _PLAIN_WIDTH,
)


class _Stderr(Console):
    """Goes on where nobody reads any more: rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True


err = _Stderr(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

EXIT_FAILED = 1
EXIT_MISSING_EXTRA = 3


def say(line: str) -> None:
    """Tell a person what is going on; goes to stderr, so that `--json` output stays clean.

    What can't be written there is lost: a full disk under a server's log must not end the server.
    """
    with suppress(OSError):
        err.print(line, markup=False)


def emit_json(value: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json_text(value) + "\n")


def tell_json(value: object) -> None:
    """Print one JSON document at once, for who waits for it; what can't be written is lost, as what `say` says is."""
    try:
        emit_json(value)
        sys.stdout.flush()
    except OSError:  # Python would try again at the end, and end in failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON, which has neither NaN nor infinity: they are null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str, indent=indent)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on stdout; numbers to the right."""
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


class Meter:
    """Progress of one task: a bar with rate and time left on a terminal, a plain line now and then without one."""

    def __init__(self, progress: Progress | None, label: str, total: int | None) -> None:
        self._progress = progress
        self._label = label
        self._total = total
        self._done = 0
        self._next_line = 0.1
        self._task = progress.add_task(label, total=total) if progress else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` replaces the text after the label."""
        self._done += count
        if self._progress is not None and self._task is not None:
            description = f"{self._label} {note}" if note else None
            self._progress.update(self._task, advance=count, description=description)
        elif self._total and self._done >= self._next_line * self._total:
            self._next_line = self._done / self._total + 0.1
            say(f"{self._label}: {self._done:,} of {self._total:,} {note}".rstrip())


@contextmanager
def meter(label: str, total: int | None = None) -> Iterator[Meter]:
    """Show the progress of a task with `total` units."""
    if not err.is_terminal:
        say(label)
        yield Meter(None, label, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        yield Meter(bar, label, total)


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


def fail(error: KgrankError) -> None:
    """Print an error that a user can mend: what was wrong, and what to do."""
    err.print(f"error: {error.problem}", style="red", markup=False)
    if error.remedy:
        err.print(error.remedy, markup=False)
