"""`kgrank compare`: data sets x protocols x models x seeds, to one report."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from model.compare.cells import Cell
    from model.compare.config import CompareConfig
    from model.compare.sections import Watcher

FOLDER = "compare"
"""Where, in the home folder, cells, checkpoints and reports are kept."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog="Example: kgrank compare configs/compare/quick.toml --test")(compare)


def compare(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The comparison (TOML).")],
    test: Annotated[
        bool,
        typer.Option(
            "--test", help="Report on the test data; the report says that it was touched. Else on validation."
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA/PROTOCOL/MODEL", help="Only these; * and ? stand for anything; may be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many seeds.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that compute cells, sharing the processors.")
    ] = 1,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data.", show_default="as the configuration says")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="HOME/compare/NAME")] = None,
    docs: Annotated[
        Path | None,
        typer.Option(help="Markdown page whose block for this comparison is rewritten.", show_default=False),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Compute nothing: report on what is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare models on data sets and protocols, over seeds; what is finished is kept, so a run can be gone on with."""
    settings = settings_of(context)
    try:
        from model.compare.beside import workers_beside
        from model.compare.config import read_comparison
        from model.compare.page import write_report
        from model.compare.report import build
        from model.compare.running import run
        from model.compare.sections import Place
        from model.compare.touched import note_touch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"comparing needs the package {error.name}", "pip install '.[report]' in kgrank's clone"
        ) from error

    began = time.monotonic()
    comparison = read_comparison(config)
    if seeds is not None:
        comparison = comparison.model_copy(update={"seeds": comparison.seeds[:seeds]})
    home = settings.home / FOLDER
    place = Place(config.parent, data or config.parent / comparison.data_folder, home, settings.cache_folder)
    patterns = only or []
    with ExitStack() as shown, workers_beside(comparison, place, patterns, 1 if report_only else workers) as shared:
        parts = run(shared, place, _watcher(shown, workers), only=patterns, compute=not report_only)
        document = build(comparison, parts, "test" if test else "validation")
    if test:
        document["test"] = note_touch(home, document)
    written = write_report(document, out or home / comparison.name, docs)
    if json:
        console.emit_json({name: document[name] for name in ("stage", "comparisons", "goals", "skipped")} | written)
        return
    _show(document, comparison)
    console.say(f"compared in {time.monotonic() - began:.0f} s; the report: {written['html']}")


def _watcher(shown: ExitStack, workers: int) -> "Watcher":
    """Return what tells a person how far the comparison is, by so many processes; `shown` ends the meter."""
    from model.compare.sections import Watcher

    meters: list[console.Meter] = []

    def on_plan(total: int, there: int) -> None:
        console.say(f"{total} {'cell' if total == 1 else 'cells'}, {there} of them there already")
        meters.append(shown.enter_context(console.meter("comparing", total)))

    def on_cell(cell: "Cell", there: bool, seconds: float, left_s: float | None) -> None:
        name = f"{cell.data}/{cell.protocol}/{cell.model} seed {cell.seed}"
        meters[-1].advance(1, name)
        if not there:
            left = "" if left_s is None else f", about {_duration(left_s / workers)} left"
            console.say(f"{name}: {_duration(seconds)}{left}")

    def on_epoch(cell: "Cell", epoch: int, ndcg: float) -> None:
        meters[-1].advance(0, f"{cell.data}/{cell.protocol}/{cell.model} epoch {epoch}, validation NDCG@10 {ndcg:.4f}")

    def on_problem(what: str, why: str) -> None:
        console.say(f"{what}: {why}")

    return Watcher(on_plan, on_cell, on_epoch, on_problem)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _show(document: dict[str, Any], comparison: "CompareConfig") -> None:
    """Print a table for each question."""
    metric = comparison.metric
    shown = list(dict.fromkeys((metric, "ndcg@10", "hr@10", "recall@20", "coverage@10")))
    for table in document["tables"]:
        rows = []
        for model in table["models"]:
            metrics, lead = model["metrics"], model.get("lead")
            interval = f"{metrics[metric]['low']:.4f}–{metrics[metric]['high']:.4f}"
            behind = "" if lead is None else f"{-lead['mean']:+.4f} (p {lead['p_holm']:.3f})"
            rows.append((model["title"], *(metrics[name]["mean"] for name in shown), interval, behind))
        place = f"{table['title']}, {table['protocol']}, {document['stage']}"
        title = f"{place}: {table['question']} ({table['users']:,} users)"
        console.emit_table(title, ("model", *shown, f"{metric} 95 %", f"against {comparison.reference}"), rows)
    for part in document["skipped"]:
        console.say(f"skipped: {part['what']}: {part['why']}")
