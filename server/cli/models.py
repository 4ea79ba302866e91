"""`kgrank models`: which models a running server has, and whom they answer."""

from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError
from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import Target, as_json, asking

if TYPE_CHECKING:
    from kgrank.v1.model_service_pb2 import Model, Traffic

_PREFIX = "models/"
_JUDGED_BY = "validation_ndcg@10"

models = typer.Typer(
    name="models",
    help="See, switch and try the models of a running server.",
    epilog="Example: kgrank models list",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models)


@models.command("list", epilog="Example: kgrank models list")
def listed(context: typer.Context, target: Target = None, json: Json = False) -> None:
    """List the models, newest first."""
    found: list[Model] = []
    with asking(target, settings_of(context)) as client:
        token = ""
        while True:
            page = client.list_models(page_size=100, page_token=token)
            found += page.models
            token = page.next_page_token
            if not token:
                break
    if json:
        console.emit_json([as_json(model) for model in found])
        return
    rows = [
        [
            model.model_version,
            "active" if model.active else "",
            model.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M"),
            model.snapshot_hash[:12],
            model.metrics.get(_JUDGED_BY),
        ]
        for model in found
    ]
    console.emit_table("Models", ["version", "", "made (UTC)", "snapshot", "validation NDCG@10"], rows)


@models.command("activate", epilog="Example: kgrank models activate 20300101-1f2e3d4c")
def activate(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Model version.")],
    target: Target = None,
    json: Json = False,
) -> None:
    """Put a model into service; every trial ends."""
    with asking(target, settings_of(context)) as client:
        _told(client.activate_model(_name(version)), json)


@models.command("rollback", epilog="Example: kgrank models rollback")
def rollback(context: typer.Context, target: Target = None, json: Json = False) -> None:
    """Go back to the model that was in service before; every trial ends."""
    with asking(target, settings_of(context)) as client:
        _told(client.roll_back_model(), json)


@models.command("traffic", epilog="Example: kgrank models traffic --share 20300101-1f2e3d4c=10")
def traffic(
    context: typer.Context,
    share: Annotated[
        list[str] | None, typer.Option(help="VERSION=PERCENT: so many of the users get this model; may be repeated.")
    ] = None,
    shadow: Annotated[str | None, typer.Option(help="Model version that scores along, unseen.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End every trial: the active model answers everybody.")] = False,
    target: Target = None,
    json: Json = False,
) -> None:
    """Show which models answer whom; with --share, --shadow or --end, change it as a whole."""
    if end and (share or shadow):
        raise ConfigError("--end is for ending every trial", "Leave out --share and --shadow, or --end.")
    with asking(target, settings_of(context)) as client:
        if share or shadow or end:
            now = client.set_traffic(dict(map(_share, share or [])), shadow=_name(shadow) if shadow else "")
        else:
            now = client.get_traffic()
    if json:
        console.emit_json(as_json(now))
        return
    console.emit_table("Traffic", ["model", "answers"], _rows(now))
    if now.shadow:
        measured = now.shadow_comparison
        console.out.print(
            f"The shadow was compared on {measured.answers:,} answers ({measured.skipped:,} skipped): it shares "
            f"{measured.overlap:.0%} of the products, orders them with a correlation of "
            f"{measured.rank_correlation:.2f}, scores them {measured.score_difference:+.3f}, "
            f"and takes {measured.latency_ms:.1f} ms."
        )


def _rows(now: "Traffic") -> list[list[str]]:
    rest = 100 - sum(each.percent for each in now.shares)
    rows = [[now.active.removeprefix(_PREFIX), f"{rest:g} % of the users, and who is anonymous"]]
    rows += [[each.model.removeprefix(_PREFIX), f"{each.percent:g} % of the users"] for each in now.shares]
    return [*rows, *([[now.shadow.removeprefix(_PREFIX), "nobody: a shadow"]] if now.shadow else [])]


def _share(told: str) -> tuple[str, float]:
    version, _, percent = told.partition("=")
    try:
        return _name(version), float(percent)
    except ValueError:
        raise ConfigError(f"--share {told!r} is not VERSION=PERCENT", "Such as --share 20300101-1f2e3d4c=10") from None


def _name(version: str) -> str:
    return version if version.startswith(_PREFIX) else _PREFIX + version


def _told(model: "Model", json: bool) -> None:
    if json:
        console.emit_json(as_json(model))
    else:
        console.out.print(f"{model.model_version} is in service")
