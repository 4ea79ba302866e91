"""What every `kgrank load SOURCE` does: read, check, write quarantine and report, judge, load."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer

from kg.errors import ConfigError, DataError
from kg.whole_files import write_whole
from server.cli import console
from server.cli.app import settings_of, settings_of_whole
from server.config import Settings

if TYPE_CHECKING:
    from kg.loading import LoadReport
    from kg.quality import Checked, Policy, Report
    from kg.sources.raw import Raw
    from kg.tables import Tables


@dataclass(frozen=True)
class LoadOptions:
    """The options that all sources share."""

    policy: "Policy"
    quarantine: Path | None
    report: Path | None
    check_only: bool
    json: bool

    @classmethod
    def of(
        cls,
        strict: bool,
        max_bad: str,
        quarantine: Path | None,
        report: Path | None,
        outside: list[str] | None,
        check_only: bool,
        json: bool,
    ) -> Self:
        """Return the options of a command line.

        Raises:
            ConfigError: a share or a policy is not one.
        """
        from kg.quality import Policy

        policies = dict(_outside(text) for text in outside or [])
        return cls(Policy(policies, _share(max_bad), strict), quarantine, report, check_only, json)


def run(context: typer.Context, source: str, read: "Callable[[], Raw]", options: LoadOptions) -> None:
    """Load a source into the graph; nothing is loaded if the check fails.

    Raises:
        DataError: a file can't be read, or more is bad than the policy allows.
        GraphError: the graph refused the load.
    """
    from kg.quality import check

    settings = settings_of(context) if options.check_only else settings_of_whole(context)
    began = time.monotonic()
    console.say(f"reading {source}")
    checked = check(read(), options.policy)
    quarantine = _write_files(checked, options, settings, source)
    if not options.json:
        _show(checked.report, quarantine)
    checked.report.judge(options.policy)
    console.say(f"read and checked in {time.monotonic() - began:.1f} s")
    loaded = None if options.check_only else _load(checked.tables, settings)
    if options.json:
        left_out = {"erased": loaded.erased, "of_another_type": loaded.of_another_type} if loaded else {}
        rest = {"quarantine": quarantine and str(quarantine), "seconds": time.monotonic() - began}
        console.emit_json(checked.report.as_dict() | {"loaded": loaded is not None} | left_out | rest)


def _load(tables: "Tables", settings: Settings) -> "LoadReport":
    from kg.store import Graph

    rows = sum(len(table) for _, table in tables)
    with Graph.connect(settings.graph, settings.graph_folder, console.say) as graph:
        graph.ensure_schema()
        began = time.monotonic()
        with console.meter("loading", rows) as meter:
            report = graph.load(tables, meter)
        seconds = time.monotonic() - began
    if report.erased:
        console.say(f"left out {report.erased:,} rows about users from before their erasure")
    if report.of_another_type:
        console.say(f"left out {report.of_another_type:,} events whose id the graph has as an event of another type")
    console.say(f"loaded {rows:,} rows in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s)")
    return report


def _write_files(checked: "Checked", options: LoadOptions, settings: Settings, source: str) -> Path | None:
    """Write the report and, if there are refused rows, the quarantine file; return where the latter is."""
    from kg.quality.quarantine import write_quarantine

    if options.report is not None:
        try:
            write_whole(options.report, f"{console.json_text(checked.report.as_dict(), indent=2)}\n".encode())
        except OSError as error:
            raise DataError(
                f"report file {options.report} can't be written: {error.strerror}", "Name another with --report."
            ) from error
    if not len(checked.refused):
        return None
    place = options.quarantine or settings.home / "quarantine" / f"{source}.jsonl"
    write_quarantine(place, checked.refused)
    return place


def _show(report: "Report", quarantine: Path | None) -> None:
    rows = [
        (name, count.read, count.kept, count.refused, count.duplicate, count.dropped, count.bare)
        for name, count in report.tables.items()
    ]
    console.emit_table("rows", ("table", "read", "kept", "bad", "duplicate", "left out", "added bare"), _grouped(rows))
    if report.rules:
        found = [
            (rule.table, rule.field, rule.rule, rule.action.value, rule.rows, f"{rule.first_file}:{rule.first_line}")
            for rule in report.rules
        ]
        console.emit_table("rules", ("table", "field", "rule", "rows are", "rows", "first"), _grouped(found))
    for reason, rows_left_out in report.left_out.items():
        console.say(f"left out: {rows_left_out:,} {reason}")
    for note in report.notes:
        console.say(note)
    if quarantine is not None:
        console.say(f"the bad rows are in {quarantine}")


def _grouped(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(f"{value:,}" if isinstance(value, int) else value for value in row) for row in rows]


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        return float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError as error:
        raise ConfigError(f"--max-bad is {text!r}, not a share", "Give one such as 5% or 0.05.") from error


def _outside(text: str) -> "tuple[str, Any]":
    from kg.quality import Outside

    table, _, policy = text.partition("=")
    try:
        return table, Outside(policy)
    except ValueError as error:
        raise ConfigError(
            f"--outside {text!r} is not TABLE=POLICY",
            "TABLE is interactions or facts, POLICY is drop, bare or refuse: interactions=bare, for example.",
        ) from error
