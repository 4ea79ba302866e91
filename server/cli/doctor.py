"""`kgrank doctor`: say what is wrong with an installation."""

from collections import Counter
from dataclasses import asdict

import typer

from server.cli import console
from server.cli.app import Json, settings_of

_MARKS = {"ok": "✓", "warning": "!", "problem": "✗", "skipped": "·"}
_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: kgrank doctor")(doctor)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check settings, packages, disk, graph, models, journal and port, and change nothing.

    Exit code 1 says that something is broken.
    """
    from server.doctor import diagnose

    findings = []
    for finding in diagnose(settings_of(context)):
        findings.append(finding)
        if not json:
            console.out.print(f"{_MARKS[finding.level]} {finding.check}: {finding.found}", style=_STYLES[finding.level])
            if finding.remedy:
                console.out.print(f"    {finding.remedy}")
    counts = Counter(str(finding.level) for finding in findings)
    broken = bool(counts["problem"])
    if json:
        console.emit_json({"healthy": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        console.say(f"{counts['problem']} broken, {counts['warning']} to see to, {counts['ok']} in order")
    if broken:
        raise typer.Exit(console.EXIT_FAILED)
