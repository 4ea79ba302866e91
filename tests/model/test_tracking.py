from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import EpochRecord
from model.config import TextConfig, TrackingConfig
from model.pipeline import Listener, fit_model
from model.splits import SplitConfig, make_split
from model.tracking import Tracking, tracked_run
from tests.model.small_shop import MODEL, TRAIN, small_shop
from tests.model.tiny_encoder import tiny_encoder

KEY = "0123456789abcdef0123"


def record(epoch: int, ndcg: float = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 3.0 - epoch, ndcg, 1.5, 0.01, {"relation/HAS_BRAND": 0.7})


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    read = EventAccumulator(str(folder))
    read.Reload()
    # Files of one second are read by their names, of which .10 comes before .9.
    events = sorted(read.Scalars(tag), key=lambda event: event.step)
    return [(event.step, pytest.approx(event.value)) for event in events]


def test_event_files_have_a_point_for_every_epoch(tmp_path: Path) -> None:
    with tracked_run(Tracking(tmp_path), KEY, {"train.epochs": 2}, 0) as runs:
        for run in runs:
            run.epoch(record(1))
            run.epoch(record(2))
            run.end({"ndcg@10": 0.6})
    folder = tmp_path / KEY[:16]
    assert points(folder, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert points(folder, "train/learning_rate") == [(1, 0.01), (2, 0.01)]
    assert points(folder, "weight/relation/HAS_BRAND") == [(1, 0.7), (2, 0.7)]
    assert points(folder, "final/ndcg@10") == [(0, 0.6)]


def test_a_resumed_run_goes_on_in_its_folder_and_a_new_one_starts_over(tmp_path: Path) -> None:
    for done, epoch in ((0, 1), (1, 2)):
        with tracked_run(Tracking(tmp_path), KEY, {}, done) as runs:
            runs[0].epoch(record(epoch))
    assert points(tmp_path / KEY[:16], "train/loss") == [(1, 2.0), (2, 1.0)]
    with tracked_run(Tracking(tmp_path), KEY, {}, 0) as runs:
        runs[0].epoch(record(1, ndcg=0.4))
    assert points(tmp_path / KEY[:16], "validation/ndcg@10") == [(1, 0.4)]


@pytest.mark.filterwarnings("ignore")  # of mlflow itself
def test_mlflow_has_the_same_points_where_it_is_configured(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    pytest.importorskip("sqlalchemy")
    configured = Tracking(tmp_path / "runs", TrackingConfig(mlflow_uri=uri, mlflow_experiment="shop"))
    for done, epoch in ((0, 1), (1, 2)):
        with tracked_run(configured, KEY, {"model.layers": 1}, done) as runs:
            for run in runs:
                run.epoch(record(epoch))
                run.end({"ndcg@10": 0.6})
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("shop")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"model.layers": "1"}
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in losses] == [(1, 2.0), (2, 1.0)]
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mlflow itself
def test_a_training_ends_its_mlflow_run_as_what_it_came_to(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    configured = Tracking(tmp_path / "runs", TrackingConfig(mlflow_uri=uri, mlflow_experiment="shop"))
    client = tracking.MlflowClient(tracking_uri=uri)

    def run() -> Any:
        (found,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
        return found

    def fails(record: EpochRecord) -> None:
        assert run().info.status == "RUNNING"
        if record.epoch == 1:
            raise KeyboardInterrupt

    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    text = TextConfig(encoder=str(tiny_encoder(tmp_path / "encoder")))
    train = TRAIN.model_copy(update={"epochs": 2, "batch_users": 64})
    arguments = (snapshot, split, MODEL.model_copy(update={"text": text}), train, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit_model(*arguments, checkpoint_folder=tmp_path / "c", tracking=configured, listener=Listener(on_epoch=fails))
    assert run().info.status == "FAILED"
    hears = Listener(on_epoch=fails)  # goes on with the second epoch
    trained = fit_model(*arguments, checkpoint_folder=tmp_path / "c", resume=True, tracking=configured, listener=hears)
    assert run().info.status == "FINISHED"
    best = max(record.ndcg for record in trained.records)
    assert run().data.metrics["final/ndcg_at_10"] == pytest.approx(best)


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_without_an_mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    away = Tracking(tmp_path, TrackingConfig(mlflow_uri="http://127.0.0.1:9"))
    with tracked_run(away, KEY, {}, 0) as runs:
        for run in runs:
            run.epoch(record(1))
            run.end({})
    assert points(tmp_path / KEY[:16], "train/loss") == [(1, 2.0)]
