"""`kgrank finetune`: a text encoder that has read the graph."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of

if TYPE_CHECKING:
    from model.checkpoint import EpochRecord
    from model.finetune.run import TuningListener
    from model.finetune.text_ranking import Quality


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "finetune", epilog="Example: KGRANK_FINETUNE__METHOD=last kgrank --config configs/beauty.toml finetune"
    )(finetune_encoder)


def finetune_encoder(
    context: typer.Context,
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the latest")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a run that was killed.")
    ] = False,
    json: Json = False,
) -> None:
    """Fine-tune the text encoder on a snapshot, as [finetune] says; `train` with the same settings then uses it."""
    settings = settings_of(context)
    if settings.finetune.method == "none":
        raise ConfigError("finetune.method is none", "Set it to full, last or lora: kgrank config lists all settings.")
    try:
        from model.checkpoint import alone_in
        from model.finetune.run import finetune
        from model.splits import make_split
        from server.cli.stored import open_snapshot, tell_if_relations_are_not_there
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"fine-tuning needs the package {error.name}", "pip install '.[train]' in kgrank's clone"
        ) from error
    data = open_snapshot(settings, snapshot)
    tell_if_relations_are_not_there(settings, data)
    checkpoints = settings.checkpoint_folder(data.content_hash)
    with alone_in(checkpoints), console.meter("fine-tuning") as meter:
        tuned = finetune(
            data,
            make_split(data, settings.split),
            settings.model,
            settings.train,
            settings.finetune,
            settings.encoders_folder,
            checkpoint_folder=checkpoints / "finetune",
            resume=resume,
            listener=tuning_listener(lambda: meter),
        )
    if json:
        console.emit_json({"encoder": tuned.content, "folder": tuned.folder, **tuned.measures})
        return
    console.out.print(
        f"encoder {tuned.content}: validation {tuned.measures['measure']:.4f}, "
        f"{tuned.measures['measure_before']:.4f} before (epoch {tuned.measures['epoch']}); {tuned.folder}"
    )


def tuning_listener(meter: Callable[[], console.Meter]) -> "TuningListener":
    """Return what tells a person how far fine-tuning is."""
    from model.finetune.run import TuningListener

    def on_step(step: int, steps: int, loss: float) -> None:
        meter().advance(1, f"step {step} of {steps}, loss {loss:.3f}")

    def on_epoch(record: "EpochRecord", quality: "Quality") -> None:
        cold = "" if quality.cold_ndcg is None else f", {quality.cold_ndcg:.4f} on cold products"
        console.say(
            f"fine-tuning, {f'epoch {record.epoch}: loss {record.loss:.3f}' if record.epoch else 'before'}, "
            f"validation NDCG@10 {quality.ndcg:.4f}{cold}, {record.seconds:.0f} s"
        )

    return TuningListener(on_step, on_epoch)
