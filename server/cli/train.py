"""`kgrank train`: a snapshot to an artifact."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError, SnapshotError
from kg.latest import latest_in, note_latest
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from kg.snapshot import Snapshot
    from model.checkpoint import EpochRecord
    from model.pipeline import Listener
    from model.product_graph import ProductGraph
    from model.scorer import TrainedModel
    from server.config import Settings

_READING = "reading product texts"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog="Example: kgrank --config configs/beauty.toml train --snapshot beauty")(train_model)


def train_model(
    context: typer.Context,
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the latest")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a run that was killed.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a model on a snapshot and keep it as an artifact; [model], [finetune], [train], [split] configure it."""
    settings = settings_of(context)
    if settings.split.protocol == "cold-products":
        raise ConfigError(
            "split.protocol is cold-products: the model would not have all of the catalogue",
            "Measure it with kgrank compare, or train with another protocol.",
        )
    try:
        from model.artifact import read_manifest, save_artifact
        from model.checkpoint import alone_in
        from model.pipeline import Listener, fit_model
        from model.tracking import Tracking
        from model.workers import joined_workers
        from server.cli.stored import tell_if_relations_are_not_there, tell_if_tuned_elsewhere
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"training needs the package {error.name}", "pip install '.[train]' in kgrank's clone"
        ) from error
    from kg.snapshot import Snapshot
    from model.splits import make_split

    folder = settings.snapshots_folder
    chosen = latest_in(folder) if snapshot is None else folder / snapshot
    if chosen is None:
        raise SnapshotError(f"there is no snapshot in {folder}", "Make one: kgrank snapshot")
    data = Snapshot.open(chosen)
    tell_if_tuned_elsewhere(settings, data)
    tell_if_relations_are_not_there(settings, data)
    split = make_split(data, settings.split)
    checkpoints = settings.checkpoint_folder(data.content_hash)
    with ExitStack() as shown, joined_workers(settings.train) as workers, ExitStack() as held:
        if workers.first:
            held.enter_context(alone_in(checkpoints))
        trained = fit_model(
            data,
            split,
            settings.model,
            settings.train,
            settings.cache_folder,
            finetune_config=settings.finetune,
            encoders_folder=settings.encoders_folder,
            checkpoint_folder=checkpoints,
            resume=resume,
            tracking=Tracking(settings.runs_folder, settings.tracking),
            listener=_listener(chosen.name, data, shown) if workers.first else Listener(),
        )
    if not workers.first:
        return
    artifact = save_artifact(settings.artifacts_folder, data, split, trained, settings.train)
    note_latest(settings.artifacts_folder, artifact.name)
    _compile(trained.model, settings)
    manifest = read_manifest(artifact)
    if json:
        console.emit_json({"model_version": manifest.model_version, "folder": artifact, **manifest.metrics})
        return
    console.out.print(
        f"model {manifest.model_version}: validation NDCG@10 {trained.validation_ndcg:.4f} (epoch {trained.best_epoch})"
    )


def _compile(model: "TrainedModel", settings: "Settings") -> None:
    """Compile what a server runs of a model, so that the first one need not."""
    try:
        from server.search.reader import query_reader
        from server.user_graph import with_compiled_users
    except ModuleNotFoundError:  # no server is installed here
        return
    console.say("compiling what encodes users and reads queries, where that was not done before")
    with_compiled_users(model, settings.cache_folder)
    config = model.network.config
    if settings.serve.search and config.text_kernel_dimension:
        query_reader(config.text, settings.cache_folder)


def _listener(name: str, data: "Snapshot", shown: ExitStack) -> "Listener":
    """Return what tells a person how far training is; `shown` ends the meters."""
    from model.pipeline import Listener
    from server.cli.finetune import tuning_listener

    meters: dict[str, console.Meter] = {}

    def meter(label: str, total: int | None = None) -> console.Meter:
        if label not in meters:
            shown.close()
            meters[label] = shown.enter_context(console.meter(label, total))
        return meters[label]

    def on_graph(graph: "ProductGraph") -> None:
        counts = data.counts
        console.say(
            f"snapshot {name}: {counts['users']:,} users, {counts['products']:,} products, "
            f"{counts['interactions']:,} interactions, {len(graph.relations)} relations"
        )
        meter(_READING, len(graph))

    def on_text(count: int) -> None:
        meter(_READING).advance(count)

    def on_step(step: int, steps: int, loss: float) -> None:
        meter("training").advance(1, f"step {step} of {steps}, loss {loss:.3f}")

    def on_epoch(record: "EpochRecord") -> None:
        console.say(
            f"epoch {record.epoch}: loss {record.loss:.3f}, "
            f"validation NDCG@10 {record.ndcg:.4f}, {record.seconds:.0f} s"
        )

    def on_epoch_again(record: "EpochRecord") -> None:
        console.say(f"again on more, epoch {record.epoch}: loss {record.loss:.3f}, {record.seconds:.0f} s")

    def on_window(window: int, windows: int) -> None:
        meter("learning neighbours").advance(min(window, 1), f"window {window} of {windows}")

    finetuning = tuning_listener(lambda: meter("fine-tuning"))
    return Listener(on_graph, on_text, on_step, on_epoch, on_epoch_again, on_window, finetuning=finetuning)
