"""A fine-tuning run, from a snapshot to an encoder: one loop, readable from top to bottom.

The epoch is chosen on the validation case of the split, and the encoder as it was stands for election too: where
fine-tuning does not help, it is kept. The test case is never touched here.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from torch import nn

from kg.snapshot import Snapshot
from model.checkpoint import EpochRecord, Progress, load_checkpoint, save_checkpoint
from model.config import FinetuneConfig, ModelConfig, TrainConfig
from model.errors import ModelError
from model.finetune.contrastive import Contrastive
from model.finetune.encoder import LearningEncoder, encoder_width
from model.finetune.end_to_end import EndToEnd
from model.finetune.objective import Objective
from model.finetune.store import TunedEncoder, find_encoder, save_encoder
from model.finetune.text_ranking import Quality
from model.libraries import installed_version
from model.product_graph import check_relations
from model.splits import Split
from model.text import encoder_digest
from model.train import check_learnable, device_of, validation_sample

_log = structlog.get_logger(__name__)

_RECIPE = 2
"""Raised when the same settings are to give another encoder: one that is kept is made anew."""


@dataclass(frozen=True)
class TuningListener:
    """Who hears how far a run is.

    Args:
        on_step: called with the step in the epoch, their number and the loss.
        on_epoch: called after every epoch, epoch 0 being the encoder as it was.
    """

    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    on_epoch: Callable[[EpochRecord, Quality], None] = lambda record, quality: None


def finetune(
    snapshot: Snapshot,
    split: Split,
    model: ModelConfig,
    train: TrainConfig,
    config: FinetuneConfig,
    encoders: Path,
    *,
    checkpoint_folder: Path | None = None,
    resume: bool = False,
    listener: TuningListener | None = None,
) -> TunedEncoder:
    """Fine-tune the text encoder on `split.train`, or find the one that was made of the same before.

    Args:
        snapshot: products, nodes and facts.
        split: what to learn from and to choose by; its test case is not touched.
        model: the encoder, how it reads, and which relations may be seen.
        train: device and validation users; with end_to_end also the ranker's batches.
        config: what learns, and how.
        encoders: the folder of fine-tuned encoders.
        checkpoint_folder: its own, where a checkpoint is kept after every epoch until the end; none when unset.
        resume: go on from the checkpoint there, if it is of the same data and settings.
        listener: hears how far it is.

    Raises:
        ModelError: `method` is none, the encoder can't be fine-tuned, there is nothing to learn from, or a loss that is
            not finite, or settings can't be had together.
        MissingExtraError: LoRA without peft.
    """
    if config.method == "none":
        raise ModelError("finetune.method is none", "Set it to full, last or lora.")
    check_relations(snapshot, model.exclude_relations)
    if config.objective == "end_to_end":
        check_learnable(split.train, model, train)
    hears = listener or TuningListener()
    run_key = _run_key(snapshot, split, model, train, config)
    found = find_encoder(encoders, run_key)
    if found is not None:
        _log.info("encoder is there already", encoder=found.content)
        return found
    device = device_of(train)
    if train.threads:
        torch.set_num_threads(train.threads)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        objective, encoder = _prepared(snapshot, split, model, train, config, device)
    groups = encoder.parameter_groups() + objective.parameter_groups()
    learned = nn.ParameterList([weight for group in groups for weight in group["params"]])
    optimizer = torch.optim.AdamW(groups)
    full_rates = [group["lr"] for group in groups]
    steps = objective.steps()

    progress = Progress(run_key)
    if resume and checkpoint_folder is not None:
        progress = load_checkpoint(checkpoint_folder, run_key, learned, optimizer) or progress
    started = time.perf_counter()
    memory = encoder.encode_all()  # [N, W]
    if not progress.records:
        reached = objective.quality(memory)
        record = EpochRecord(0, 0.0, reached.measure(config.cold_share), time.perf_counter() - started)
        _note(progress, record, learned)
        hears.on_epoch(record, reached)

    while (epoch := len(progress.records)) <= config.epochs and epoch - 1 - progress.best_epoch < config.patience:
        started, total = time.perf_counter(), 0.0
        # Each epoch has its own seed, so that a resumed run draws what an unbroken one would have drawn.
        generator = np.random.default_rng([config.seed, epoch])
        with torch.random.fork_rng():
            torch.manual_seed(config.seed * 100_003 + epoch)
            encoder.train(True)
            for step, batch in enumerate(objective.batches(generator), 1):
                done = ((epoch - 1) * steps + step) / (config.epochs * steps)  # of all steps, in (0, 1]
                for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
                    group["lr"] = rate * _step_size(done, config.warmup)
                live = encoder(batch.live)  # [n, W]
                loss = objective.loss(batch, live, memory)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                torch.nn.utils.clip_grad_norm_(learned, config.clip_norm)
                optimizer.step()
                memory[torch.from_numpy(batch.live).to(device)] = live.detach()
                if not np.isfinite(value := float(loss.detach())):
                    raise ModelError(
                        f"the loss is {value} in epoch {epoch}, step {step}", "Lower finetune.learning_rate."
                    )
                total += value
                hears.on_step(step, steps, value)
        memory = encoder.encode_all()
        reached = objective.quality(memory)
        record = EpochRecord(epoch, total / steps, reached.measure(config.cold_share), time.perf_counter() - started)
        _note(progress, record, learned)
        if checkpoint_folder is not None:
            save_checkpoint(checkpoint_folder, progress, learned, optimizer)
        hears.on_epoch(record, reached)

    if progress.best_epoch != progress.records[-1].epoch:
        learned.load_state_dict(progress.best)
        memory = encoder.encode_all()
    if not progress.best_epoch:
        _log.warning("fine-tuning did not help on validation: the encoder stays as it was", encoder=model.text.encoder)
    reached = objective.quality(memory)
    measures = {
        "measure": progress.best_ndcg,
        "measure_before": progress.records[0].ndcg,
        "ndcg@10": reached.ndcg,
        "cold_ndcg@10": reached.cold_ndcg,
        "epoch": progress.best_epoch,
        "minutes": round(sum(record.seconds for record in progress.records) / 60, 2),
    }
    made_of = {
        "encoder": model.text.encoder,
        "snapshot": snapshot.content_hash,
        "split": split.config.model_dump(mode="json"),
        "finetune": config.model_dump(mode="json"),
    }
    tuned = save_encoder(encoders, encoder.save, run_key, measures, made_of)
    if checkpoint_folder is not None:
        shutil.rmtree(checkpoint_folder, ignore_errors=True)
    return tuned


def _prepared(
    snapshot: Snapshot,
    split: Split,
    model: ModelConfig,
    train: TrainConfig,
    config: FinetuneConfig,
    device: torch.device,
) -> tuple[Objective, LearningEncoder]:
    """Return what is learned for, and what learns."""
    validation = validation_sample(split.validation, train)
    objective: Objective
    if config.objective == "end_to_end":
        width = encoder_width(model.text)
        objective = EndToEnd(snapshot, split, model, train, config, validation, width, device)
    else:
        objective = Contrastive(snapshot, split, model, config, validation)
    return objective, LearningEncoder(model.text, config, objective.texts, device)


def _note(progress: Progress, record: EpochRecord, learned: nn.ParameterList) -> None:
    """Add an epoch to the record, and keep its weights if it is the best so far."""
    progress.records.append(record)
    if record.ndcg > progress.best_ndcg:
        progress.best_epoch, progress.best_ndcg = record.epoch, record.ndcg
        progress.best = {name: value.detach().cpu().clone() for name, value in learned.state_dict().items()}


def _step_size(done: float, warmup: float) -> float:
    """Return the factor on the step size when a share of all steps is done: up in a line, then down to 0."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def _run_key(snapshot: Snapshot, split: Split, model: ModelConfig, train: TrainConfig, config: FinetuneConfig) -> str:
    """Return a digest of what a run's result depends on."""
    libraries = ["torch", "transformers", *(["peft"] if config.method == "lora" else [])]
    described: list[Any] = [
        [_RECIPE, *map(installed_version, libraries)],
        snapshot.content_hash,
        split.config.model_dump(mode="json"),
        encoder_digest(model.text),
        config.model_dump(mode="json"),
        hashlib.blake2b(validation_sample(split.validation, train).user_index.tobytes()).hexdigest(),
        hashlib.blake2b(split.train.offsets.tobytes() + split.train.product_index.tobytes()).hexdigest(),
        [*model.exclude_relations],
        [model.text_decay, model.history_length],
    ]
    if config.objective == "end_to_end":
        described += [model.model_dump(mode="json", exclude={"text"}), train.model_dump(mode="json")]
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
