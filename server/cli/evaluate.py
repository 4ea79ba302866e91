"""`kgrank evaluate`: an artifact beside the baselines, on interactions it has not seen."""

import hashlib
import json as json_module
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import MissingExtraError
from kg.whole_files import write_whole
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from model.evaluate import CaseReport
    from model.metrics import Estimate

_ACCURACY = ("recall@10", "hr@10", "mrr@10")
_BEYOND = ("coverage@10", "novelty@10", "diversity@10")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog="Example: kgrank evaluate --baselines popularity,itemknn --json")(evaluate_model)


def evaluate_model(
    context: typer.Context,
    artifact: Annotated[
        str | None, typer.Option(help="Model version; 'none' for the baselines alone.", show_default="trained last")
    ] = None,
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the model's own")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="leave-one-out, temporal, cold-products or cold-users.", show_default="as the model was trained"
        ),
    ] = None,
    repeats: Annotated[
        bool | None,
        typer.Option(
            "--repeats/--no-repeats",
            help="Whether products that a user had before may be ranked and count.",
            show_default="as the model was trained",
        ),
    ] = None,
    baselines: Annotated[
        str, typer.Option(help="Baselines in the same run, by comma; empty for none.")
    ] = "popularity,frequency,itemknn",
    tuned: Annotated[
        list[Path] | None,
        typer.Option(help="TOML file of `kgrank tune --model BASELINE`: its settings instead of a grid. Repeatable."),
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Report on the validation case; leaves the test untouched.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the tuning sample.", min=0)] = 7,
    json: Json = False,
) -> None:
    """Rank everything for users whose next products are known, and report the quality beside baselines."""
    settings = settings_of(context)
    try:
        import numpy as np

        from model.artifact import load_artifact, read_manifest
        from model.baselines import fit_data
        from model.evaluate import check_untrained, evaluate, fit_baseline, tuned_settings
        from model.finetune.provenance import check_tuned_here
        from model.ranker import ModelRanker, Ranker
        from model.splits import SplitConfig, make_split
        from server.cli.stored import newest_artifact, open_snapshot
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"evaluating needs the package {error.name}", "pip install '.[train]' in kgrank's clone"
        ) from error
    from pydantic import ValidationError

    from kg.errors import ConfigError

    folder = None if artifact == "none" else newest_artifact(settings, artifact)
    manifest = read_manifest(folder) if folder else None
    data = open_snapshot(settings, snapshot, manifest.snapshot_hash if manifest else None)
    wanted = dict(manifest.split) if manifest else settings.split.model_dump(mode="json")
    wanted |= {"protocol": protocol} if protocol else {}
    wanted |= {"repeats": repeats} if repeats is not None else {}
    try:
        config = SplitConfig.model_validate(wanted)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"split.{problem['loc'][0]}: {problem['msg']} (got {problem['input']!r})") from error
    if manifest:
        check_untrained(manifest, data, config, on_validation=validation)
    scorer = load_artifact(folder).scorer if folder else None
    # The network's settings name the artifact's encoder by where it is; the manifest does not.
    model_config = scorer.network.config if scorer else settings.model
    check_tuned_here(model_config.text, data.content_hash, config)
    split = make_split(data, config)
    names = [name.strip() for name in baselines.split(",") if name.strip()]
    searched = tuned_settings(tuned or [])
    if other := sorted(searched.keys() - set(names)):
        raise ConfigError(f"--tuned has settings of {other[0]}, which is not asked for", "Name it in --baselines.")
    model = ModelRanker(manifest.model_version, scorer) if manifest and scorer else None
    reports = []
    rankers: list[tuple[Ranker, dict[str, Any]]] = []
    for question in split.questions:
        tuning = question.validation if question.tuned_alone else split.validation
        case = question.validation if validation else question.test
        if not len(case):
            console.say(f"{case.name}: nobody to ask")
            continue
        if not rankers or question.tuned_alone:
            rankers = [(model, {})] if model else []
            with console.meter(f"{case.name}: tuning the baselines on validation") as meter:
                learned = fit_data(data, case.known, tuning, model_config, settings.cache_folder, seed=seed)
                fitted = [
                    # Each is tuned on the same users, whatever was tuned before it.
                    fit_baseline(
                        name, learned, case, np.random.default_rng(seed), meter.advance, settings=searched.get(name)
                    )
                    for name in names
                ]
            rankers = [*fitted, *rankers]
        with console.meter(f"{case.name}: ranking", len(case) * len(rankers)) as meter:
            reports.append(evaluate(data, case, rankers, seed, meter.advance))

    document = _document(reports, seed, manifest.model_version if manifest else None)
    document |= {"snapshot_hash": data.content_hash, "split": config.model_dump(mode="json")}
    asked = [sorted(names), {name: found.model_dump(mode="json") for name, found in searched.items()}]
    asked += [] if manifest else [model_config.model_dump(mode="json")]  # of a model, its version says it
    path = _report_path(settings.home, config.protocol, document, asked)
    write_whole(path, console.json_text(document, indent=2).encode())
    if json:
        console.emit_json(document)
        return
    for report, told in zip(reports, document["cases"], strict=True):
        _show(report, told["against_best_baseline"], manifest.model_version if manifest else "")
    console.say(f"All metrics at 5, 10 and 20: {path}")


def _report_path(home: Path, protocol: str, document: dict[str, Any], asked: list[Any]) -> Path:
    """Return where a report goes: one that asked the same goes over the earlier one, any other beside it."""
    described = [document["snapshot_hash"], document["split"], document["seed"], *asked]
    digest = hashlib.blake2b(json_module.dumps(described, sort_keys=True).encode(), digest_size=4).hexdigest()
    name = f"{document['model_version'] or 'baselines'}-{protocol}-{document['case_names'][0]}-{digest}.json"
    return home / "evaluations" / name.replace(",", "").replace(" ", "-")


def _document(reports: list["CaseReport"], seed: int, model_version: str | None) -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_version": model_version,
        "seed": seed,
        "intervals": "95 %, percentile bootstrap over users",
        "case_names": [report.case for report in reports],
        "cases": [
            {
                "case": report.case,
                "users": report.users,
                "candidates": report.candidates,
                "exclude_seen": report.exclude_seen,
                "results": [
                    {
                        "ranker": result.ranker,
                        "config": dict(result.config),
                        "seconds": round(result.seconds, 3),
                        "metrics": {name: asdict(estimate) for name, estimate in result.metrics.items()},
                    }
                    for result in report.results
                ],
                "against_best_baseline": _against(report, seed, model_version),
            }
            for report in reports
        ],
    }


def _against(report: "CaseReport", seed: int, model_version: str | None) -> dict[str, Any] | None:
    """Return the model's lead over the best baseline, paired by user; None where one of them is missing."""
    from model.evaluate import CHOSEN_BY, difference

    ours = [result for result in report.results if result.ranker == model_version]
    peers = [result for result in report.results if result.ranker != model_version]
    if not ours or not peers:
        return None
    best = max(peers, key=lambda result: result.metrics[CHOSEN_BY].mean)
    return {
        "baseline": best.ranker,
        "metric": CHOSEN_BY,
        "difference": asdict(difference(ours[0], best, CHOSEN_BY, seed)),
    }


def _show(report: "CaseReport", lead: dict[str, Any] | None, model_version: str) -> None:
    from model.evaluate import CHOSEN_BY

    what = "seen products left out" if report.exclude_seen else "seen products may be ranked"
    accuracy = [
        (
            result.ranker,
            result.metrics[CHOSEN_BY].mean,
            _interval(result.metrics[CHOSEN_BY]),
            *(result.metrics[name].mean for name in _ACCURACY),
        )
        for result in report.results
    ]
    title = f"{report.case}: {report.users:,} users, {report.candidates:,} candidates, {what}"
    console.emit_table(title, ("ranker", CHOSEN_BY, "95 % interval", *_ACCURACY), accuracy)
    beyond = [
        (result.ranker, *(result.metrics[name].mean for name in _BEYOND), f"{result.seconds:.1f}")
        for result in report.results
    ]
    console.emit_table("beyond accuracy", ("ranker", *_BEYOND, "seconds"), beyond)
    if lead:
        gap = lead["difference"]
        console.out.print(
            f"{model_version} against {lead['baseline']}: {gap['mean']:+.4f} NDCG@10 "
            f"(95 % interval {gap['low']:+.4f} to {gap['high']:+.4f}, paired by user)",
            markup=False,
        )


def _interval(estimate: "Estimate") -> str:
    return f"{estimate.low:.4f}–{estimate.high:.4f}"
