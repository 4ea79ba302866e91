"""`kgrank score`: the best products of all users, or of a list, to Parquet."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    import pyarrow as pa

_PART_ROWS = 400_000
_PART_ROWS_WITH_REASONS = 20_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("score", epilog="Example: kgrank score --k 20 --reasons --out lists.parquet")(score_users)


def score_users(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="A folder of Parquet parts, or one file if the name ends in .parquet.")
    ] = Path("recommendations"),
    users: Annotated[
        Path | None, typer.Option(help="File with a user id a line; unknown ones get a cold list.", show_default="all")
    ] = None,
    k: Annotated[int, typer.Option(help="Products for each user.", min=1, max=10_000)] = 100,
    reasons: Annotated[bool, typer.Option("--reasons", help="With the strongest reason of each product.")] = False,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--include-seen",
            help="Whether products that a user had are left out.",
            show_default="as the model was trained",
        ),
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="Model version.", show_default="the one in service")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the model's own")] = None,
    part_users: Annotated[
        int | None, typer.Option(help="Users in a part: what a killed run may lose.", min=1, show_default="by k")
    ] = None,
    json: Json = False,
) -> None:
    """Rank the catalogue for many users; run again after a kill, it goes on where it stopped."""
    settings = settings_of(context)
    try:
        from model.artifact import load_artifact
        from model.parts import Job, is_merged, merge, write_parts
        from model.score import Scorer
        from server.cli.stored import artifact_in_service, model_on, open_snapshot
        from server.cli.user_list import read_users
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"scoring needs the package {error.name}", "pip install '.[train]' in kgrank's clone"
        ) from error
    from kg.paths import Reasoner

    loaded = load_artifact(artifact_in_service(settings, artifact))
    manifest = loaded.manifest
    data = open_snapshot(settings, snapshot, manifest.snapshot_hash)
    model = model_on(loaded, data, settings)
    listed = None if users is None else read_users(users)
    scorer = Scorer(
        model_version=manifest.model_version,
        model=model,
        snapshot=data,
        k=k,
        exclude_seen=not manifest.split.get("repeats", False) if exclude_seen is None else exclude_seen,
        reasoner=Reasoner(data, loaded.relation_weights) if reasons else None,
    )
    rows = _PART_ROWS_WITH_REASONS if reasons else _PART_ROWS
    asked = scorer.everybody if listed is None else listed
    job = Job(
        items=len(asked),
        part_size=part_users or max(1, rows // k),
        settings={
            "model_version": manifest.model_version,
            "snapshot_hash": data.content_hash,
            "k": k,
            "exclude_seen": scorer.exclude_seen,
            "reasons": reasons,
            "users": "all" if listed is None else hashlib.blake2b("\n".join(listed).encode()).hexdigest()[:16],
        },
    )
    one_file = out.suffix == ".parquet"
    folder = out.with_name(f"{out.name}.parts") if one_file else out

    def make(part: range) -> "pa.Table":
        return scorer.table(asked[part.start : part.stop])

    if one_file and out.exists():
        if not is_merged(folder, job, out):
            raise ConfigError(f"{out} exists already", "Choose another file with --out, or remove it.")
        found = job.parts
    else:
        with console.meter("scoring", job.items) as meter:
            found = write_parts(folder, job, make, meter.advance)
        if one_file:
            merge(folder, job, out)
    if json:
        console.emit_json({**job.settings, "out": str(out), "users": job.items, "parts_found": found})
        return
    went_on = f" ({found:,} of {job.parts:,} parts were there)" if found else ""
    console.out.print(f"{job.items:,} users, {k} products each: {out}{went_on}", markup=False)
