"""`kgrank tune`: a search for better settings, on the validation case alone."""

import hashlib
import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from model.tuning.search import Tried

_DEFAULT_TRIALS = 20
_MANY_TRIALS = 100_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tune", epilog="Example: kgrank --config configs/beauty.toml tune --minutes 60 --out tuned.toml")(tune)


def tune(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="kgrank, or a baseline.")] = "kgrank",
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the latest")] = None,
    space: Annotated[
        Path | None, typer.Option(help="TOML file with a [space] table.", show_default="the model's own space")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, those of earlier runs counted.", show_default="20")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Longest time of this run.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the best settings (TOML).", show_default="best.toml of the search")
    ] = None,
    json: Json = False,
) -> None:
    """Search for settings by validation NDCG@10; the test is not touched. Run again, it goes on where it stopped."""
    settings = settings_of(context)
    try:
        from model.baselines import BASELINES
        from model.product_graph import check_relations
        from model.settings import RunSettings, read_toml
        from model.splits import make_split
        from model.tuning import measures
        from model.tuning.outcome import BEST, write_outcome
        from model.tuning.search import Budget, search
        from model.tuning.space import (
            NETWORK,
            check_space,
            default_space,
            describe,
            overridden,
            parse_space,
            start_of,
            widened,
        )
        from server.cli.stored import open_snapshot, tell_if_relations_are_not_there, tell_if_tuned_elsewhere
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"tuning needs the package {error.name}", "pip install '.[tune]' in kgrank's clone"
        ) from error

    sections = {name: getattr(settings, name) for name in RunSettings.model_fields}
    run = RunSettings.model_validate(sections)
    varied = default_space(model)
    network = model == NETWORK
    tuned = run if network else BASELINES[model].grid[0]
    if space is not None:
        varied = parse_space(read_toml(space).get("space", {}), tuned)
    start = start_of(varied, tuned)
    varied = widened(varied, start)
    check_space(varied, tuned)
    data = open_snapshot(settings, snapshot)
    tell_if_tuned_elsewhere(settings, data)
    tell_if_relations_are_not_there(settings, data)
    check_relations(data, settings.model.exclude_relations)
    split = make_split(data, settings.split)
    if network:
        measure = measures.network_measure(data, split, run, settings.cache_folder)
    else:
        measure = measures.peer_measure(model, data, split, run, settings.cache_folder)
    made_by = measures.made_by(model, run.model.text)
    described = [model, data.content_hash, run.model_dump(mode="json"), describe(varied), *made_by]
    key = hashlib.blake2b(json_module.dumps(described, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = settings.home / "tune" / f"{model}-{key}"
    budget = Budget(trials or (_DEFAULT_TRIALS if minutes is None else _MANY_TRIALS), minutes)

    def show(tried: "Tried") -> None:
        reached = "" if tried.value is None else f", validation NDCG@10 {tried.value:.4f}"
        console.say(f"trial {tried.number}: {tried.state}{reached}  {_short(tried.changed)}")

    found = search(folder / "study.db", varied, start, measure, budget, run.train.seed, show)
    best = overridden(tuned, found.best.changed).model_dump(mode="json")
    told = (
        f"Found by kgrank tune --model {model} on snapshot {data.content_hash[:12]}: "
        f"validation NDCG@10 {found.best.value:.4f}, trial {found.best.number} of {len(found.trials)}"
    )
    files = write_outcome(folder, found, best if network else {model: best}, told, out or folder / BEST)
    if json:
        console.emit_json(
            {
                "model": model,
                "validation_ndcg@10": found.best.value,
                "best": found.best.changed,
                "trials": len(found.trials),
                "importance": found.importance,
                "files": files,
            }
        )
        return
    rows = [[name, found.best.changed[name], found.importance.get(name)] for name in sorted(found.best.changed)]
    console.emit_table(f"{model}: validation NDCG@10 {found.best.value:.4f}", ["setting", "best", "importance"], rows)
    console.say("Written: " + ", ".join(map(str, files)))


def _short(changed: Mapping[str, Any]) -> str:
    values = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in changed.items()}
    return " ".join(f"{name}={value}" for name, value in values.items())
