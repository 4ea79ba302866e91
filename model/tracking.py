"""What a training run tells the world: TensorBoard event files always, an MLflow server when one is configured.

    <runs>/<run key>/events.out.tfevents.*     loss, validation NDCG, learning rate, weights, seconds; a point an epoch

A run that goes on after a kill writes on in its folder. MLflow is a listener only: when its server is away, training
goes on and a warning says so.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from kg.errors import MissingExtraError
from model.checkpoint import EpochRecord
from model.config import TrackingConfig

_log = structlog.get_logger(__name__)
_KEY_LENGTH = 16


@dataclass(frozen=True)
class Tracking:
    """Where runs are told of.

    Args:
        runs_folder: the folder of all runs' event files.
        config: MLflow's address, if any.
    """

    runs_folder: Path
    config: TrackingConfig = field(default_factory=TrackingConfig)


class Run(Protocol):
    """One run being told of."""

    def epoch(self, record: EpochRecord) -> None:
        """Tell of an epoch."""

    def end(self, values: Mapping[str, float]) -> None:
        """Tell of what came out."""


@contextmanager
def tracked_run(
    tracking: Tracking | None, run_key: str, settings: Mapping[str, Any], epochs_done: int
) -> Iterator[list[Run]]:
    """Open a run's records until the end of the block.

    Args:
        tracking: where; nowhere when unset.
        run_key: names the run; the same key goes on where it stood.
        settings: of the run, by dotted key.
        epochs_done: epochs that were told of before a kill.

    Raises:
        MissingExtraError: MLflow is configured, but its package is not installed.
    """
    with ExitStack() as opened:
        runs: list[Run] = []
        if tracking is not None:
            folder = tracking.runs_folder / run_key[:_KEY_LENGTH]
            runs.append(opened.enter_context(_tensorboard(folder, settings, epochs_done)))
            if tracking.config.mlflow_uri is not None:
                runs.append(opened.enter_context(_mlflow(tracking.config, run_key, settings, epochs_done)))
        yield runs


def values_of(record: EpochRecord) -> dict[str, float]:
    """Return what is told of an epoch, by tag."""
    told = {
        "train/loss": record.loss,
        "train/learning_rate": record.learning_rate,
        "validation/ndcg@10": record.ndcg,
        "time/seconds": record.seconds,
    }
    return told | {f"weight/{name}": value for name, value in record.weights.items()}


class _TensorBoardRun:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def epoch(self, record: EpochRecord) -> None:
        for tag, value in values_of(record).items():
            self._writer.add_scalar(tag, value, record.epoch)
        self._writer.flush()

    def end(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"final/{name}", value, 0)


@contextmanager
def _tensorboard(folder: Path, settings: Mapping[str, Any], epochs_done: int) -> Iterator[Run]:
    from torch.utils.tensorboard import SummaryWriter

    if not epochs_done:  # the same settings on the same data, from the start: the same curves again
        for left in folder.glob("events.out.tfevents.*"):
            left.unlink()
    with SummaryWriter(str(folder), purge_step=epochs_done + 1 if epochs_done else None) as writer:
        if not epochs_done:
            lines = "\n".join(f"    {name} = {value}" for name, value in settings.items())
            writer.add_text("settings", lines, 0)
        yield _TensorBoardRun(writer)


class _MlflowRun:
    """Every call that fails is one warning, and the last to be made."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id, self._away = client, run_id, False

    def _tell(self, values: Mapping[str, float], step: int, ended_as: str | None = None) -> None:
        from mlflow.exceptions import MlflowException

        if self._away:
            return
        try:
            for name, value in values.items():
                self._client.log_metric(self._run_id, name.replace("@", "_at_"), value, step=step)
            if ended_as is not None:
                self._client.set_terminated(self._run_id, ended_as)
        except (MlflowException, OSError) as error:
            self._away = True
            _log.warning("MLflow can't be told of the run any more", problem=type(error).__name__)

    def epoch(self, record: EpochRecord) -> None:
        self._tell(values_of(record), record.epoch)

    def end(self, values: Mapping[str, float]) -> None:
        self._tell({f"final/{name}": value for name, value in values.items()}, 0, "FINISHED")

    def fail(self) -> None:
        self._tell({}, 0, "FAILED")


@contextmanager
def _mlflow(config: TrackingConfig, run_key: str, settings: Mapping[str, Any], epochs_done: int) -> Iterator[Run]:
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"tracking.mlflow_uri needs the package {error.name}", "pip install '.[mlflow]' in kgrank's clone"
        ) from error
    try:
        client = MlflowClient(tracking_uri=config.mlflow_uri)
        found = client.get_experiment_by_name(config.mlflow_experiment)
        experiment = found.experiment_id if found else client.create_experiment(config.mlflow_experiment)
        known = client.search_runs([experiment], f"tags.kgrank_run = '{run_key}'", max_results=1) if epochs_done else []
        if known:
            run_id = known[0].info.run_id
            client.update_run(run_id, "RUNNING")
        else:
            run_id = client.create_run(experiment, tags={"kgrank_run": run_key}).info.run_id
            for name, value in settings.items():
                client.log_param(run_id, name, value)
    except (MlflowException, OSError) as error:
        _log.warning("MLflow can't be told of the run", problem=type(error).__name__)
        yield _Nobody()
        return
    run = _MlflowRun(client, run_id)
    try:
        yield run
    except BaseException:
        run.fail()
        raise


class _Nobody:
    def epoch(self, record: EpochRecord) -> None:
        """Say nothing."""

    def end(self, values: Mapping[str, float]) -> None:
        """Say nothing."""
