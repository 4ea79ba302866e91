import numpy as np
import pytest
import torch
import torch.distributed as dist

from kg.snapshot import Histories
from model.batches import Batch, batches
from model.config import ModelConfig, TrainConfig
from model.errors import ModelError
from model.workers import Workers, current_workers, joined_workers

DAY_MS = 86_400_000
MODEL = ModelConfig(history_length=8, repeat=True)


def histories() -> Histories:
    generator = np.random.default_rng(0)
    users, length = 23, 6
    rows = users * length
    at_ms = np.sort(generator.integers(0, 60 * DAY_MS, (users, length)), axis=1).ravel()
    product = generator.integers(0, 15, rows).astype(np.int32)
    return Histories(np.arange(users + 1) * length, product, np.full(rows, 4, np.int8), at_ms, np.ones(rows, "f4"))


def questions(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return what is known and what is asked for, of each user of a batch."""
    told = []
    width = batch.events.product.shape[1]
    user_of_question = batch.question_step // width if batch.every_step else batch.question_step
    user_of_target = user_of_question[batch.target_question]
    for user, length in enumerate(batch.events.length.tolist()):
        known = tuple(batch.events.product[user, :length].tolist())
        told.append((known, tuple(batch.target_product[user_of_target == user].tolist())))
    return told


@pytest.mark.parametrize("objective", ["next_item", "next_basket"])
def test_the_processes_shares_of_a_step_are_the_step(objective: str) -> None:
    config = TrainConfig(objective=objective, batch_users=11, window_days=5, windows=4)

    def epoch(workers: Workers | None) -> list[Batch]:
        return list(batches(histories(), 15, MODEL, config, np.random.default_rng(3), workers))

    whole = epoch(None)
    shares = [epoch(Workers(rank, 3)) for rank in range(3)]
    assert len({len(share) for share in [whole, *shares]}) == 1
    for step, parts in zip(whole, zip(*shares, strict=True), strict=True):
        dealt = [question for part in parts for question in questions(part)]
        assert sorted(dealt) == sorted(questions(step))


def test_a_process_without_a_share_has_an_empty_batch() -> None:
    one = histories().take(np.array([4]))
    (batch,) = batches(one, 15, MODEL, TrainConfig(), np.random.default_rng(0), Workers(1, 2))
    assert len(batch.question_step) == 0


def test_a_process_is_alone_unless_others_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_workers(TrainConfig()) as workers:
        assert workers == Workers(0, 1) == current_workers()
        assert not dist.is_initialized()


def test_processes_that_are_not_there_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match="don't find each other"), joined_workers(TrainConfig(device="cpu")):
        torch.zeros(1)


def test_more_processes_than_gpus_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ModelError, match="process 2 of this machine has no GPU: torch sees 1"),
        joined_workers(TrainConfig()),
    ):
        torch.zeros(1)
