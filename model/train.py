"""Training, from a snapshot to a model that scores: one loop, readable from top to bottom.

The epoch is chosen by NDCG@10 on the validation case of the split; the test case is never touched here.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from pydantic import BaseModel
from torch import Tensor

from kg.snapshot import Histories, Snapshot
from model.batches import batches, count_batches, nothing_to_learn
from model.blend import GRID, fit_blend
from model.checkpoint import EpochRecord, Progress, load_checkpoint, save_checkpoint
from model.config import ModelConfig, TrainConfig
from model.errors import ModelError
from model.loss import batch_loss
from model.memory import kept_memory
from model.metrics import per_user
from model.negatives import negative_sampler
from model.network import RankingNetwork
from model.popularity import ProductStatistics, product_statistics
from model.precision import learns_in_bf16
from model.product_graph import ProductGraph
from model.ranker import top_k
from model.scorer import Blend, TextKernel, TrainedModel, fit_text_kernel
from model.scoring import POPULARITY, full_scores
from model.splits import Case, Split
from model.threads import torch_threads
from model.tracking import Tracking, tracked_run
from model.workers import Workers, copy_from_first, current_workers, from_first, share_gradients

_log = structlog.get_logger(__name__)
_VALIDATION_BATCH = 256
_REPEAT_STEP = 5.0
_SMALL_GRAPH = 2_000  # nodes; below, threads wait for each other longer than they work


@dataclass(frozen=True)
class Trained:
    """What a run yields.

    Args:
        model: the best epoch, with its component weights.
        kernel: how text features become the text component.
        graph: the graph it was trained on.
        records: every epoch.
        best_epoch: the chosen one, from 1.
        validation_ndcg: NDCG@10 of `model` on the validation users looked at.
    """

    model: TrainedModel
    kernel: TextKernel
    graph: ProductGraph
    records: list[EpochRecord]
    best_epoch: int
    validation_ndcg: float


@torch_threads(0)
@kept_memory()
def train(
    snapshot: Snapshot,
    split: Split,
    text: npt.NDArray[np.float32],
    graph: ProductGraph,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    checkpoint_folder: Path | None = None,
    resume: bool = False,
    earlier: "Trained | None" = None,
    tracking: Tracking | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Trained:
    """Train a network and choose its component weights.

    In processes that were joined (`model.workers`) each does its share of every step; the first one validates, keeps
    checkpoints and tells of the run, and all return the same.

    Args:
        snapshot: the products.
        split: what to train on, and the validation case that chooses.
        text: `[N, W]` text features of the graph's nodes.
        graph: what `product_graph` made of the snapshot and `split.train`.
        model_config: the network.
        config: the run.
        checkpoint_folder: where a checkpoint is kept after every epoch; none when unset.
        resume: go on from the checkpoint there, if it is of the same data and settings.
        earlier: a run on a part of these histories that chose the number of epochs and the component weights: this one
            takes them over, and looks at no validation case, which may be in what it is trained on. With
            `refit_epochs` it goes on from that run's network.
        tracking: where the run is told of, beside the callbacks.
        on_step: called with the step in the epoch, their number and the loss.
        on_epoch: called after every epoch.

    Raises:
        ModelError: nothing to train on, a loss that is not finite, or a damaged checkpoint.
    """
    check_learnable(split.train, model_config, config)
    torch.set_num_threads(config.threads or (1 if len(graph) < _SMALL_GRAPH else torch.get_num_threads()))
    device = device_of(config)
    product_count = graph.product_count
    names = list(graph.relations)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = RankingNetwork(model_config, text.shape[1], len(graph), names).to(device)
    epochs_before = earlier.best_epoch if earlier is not None and config.refit_epochs else 0
    if earlier is not None and epochs_before:
        _take_over(network, earlier.model.network)
        config = config.model_copy(update={"learning_rate": config.learning_rate * config.refit_step})
    optimizer = _optimizer(network, config)
    text_features = torch.from_numpy(text).to(device)  # [N, W]
    identity_index = torch.arange(len(graph), device=device)
    relations = graph.relations_of(names, device)
    validation = validation_sample(split.validation, config)
    now_ms = int(validation.now_ms.max())
    half_life = model_config.popularity_half_life_days
    statistics = product_statistics(split.train, now_ms, half_life, product_count)
    no_text = fit_text_kernel(torch.from_numpy(text[:product_count]), 0)
    steps = count_batches(split.train, config)

    workers = current_workers()
    sampler = negative_sampler(split.train, product_count, config)
    parameters = list(network.parameters())
    run_key = _run_key(snapshot, split, text, model_config, config, workers, epochs_before)
    last_epoch = config.epochs if earlier is None else config.refit_epochs or earlier.best_epoch
    progress = Progress(run_key)
    if resume and checkpoint_folder is not None:
        suits = partial(_comes_to, last_epoch=last_epoch, patience=config.patience, chooses=earlier is None)
        progress = load_checkpoint(checkpoint_folder, run_key, network, optimizer, suits) or progress

    settings = {**_dotted("model", model_config), **_dotted("train", config), **_dotted("split", split.config)}
    with tracked_run(tracking if workers.first else None, run_key, settings, progress.epochs_done) as runs:
        while progress.epochs_done < last_epoch and progress.epochs_done - progress.best_epoch < config.patience:
            epoch, started, total = progress.epochs_done + 1, time.perf_counter(), 0.0
            # Each epoch has its own seeds, so that a resumed run draws what an unbroken one would have drawn.
            drawn = epochs_before + epoch
            generator, drawing = (np.random.default_rng([config.seed, drawn, *more]) for more in ((), (1,)))
            with torch.random.fork_rng():
                torch.manual_seed(config.seed * 100_003 + drawn + (workers.rank << 48))
                network.train()
                epoch_batches = batches(split.train, product_count, model_config, config, generator, workers)
                for step, batch in enumerate(epoch_batches, 1):
                    if sampler is not None:
                        batch = replace(batch, negatives=sampler.draw(drawing))  # noqa: PLW2901  # the same, with more
                    optimizer.zero_grad(set_to_none=True)
                    loss: Tensor | None = None
                    if questions := len(batch.question_step):  # of a small batch, a process may have no share
                        with torch.autocast(device.type, torch.bfloat16, enabled=learns_in_bf16(device)):
                            loss = batch_loss(
                                network, text_features, identity_index, relations, product_count, batch.to(device)
                            )
                        loss.backward()  # type: ignore[no-untyped-call]  # torch
                    if workers.count > 1:
                        value = share_gradients(parameters, loss, questions)
                    else:
                        value = 0.0 if loss is None else float(loss.detach())
                    torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                    optimizer.step()
                    if not np.isfinite(value):
                        raise ModelError(
                            f"the loss is {value} in epoch {epoch}, step {step}", "Lower train.learning_rate."
                        )
                    total += value
                    on_step(step, steps, value)

            ndcg = 0.0
            if workers.first and earlier is None:
                model = assemble(network, text, graph, statistics, no_text)
                if network.repeat is not None:  # how much repeats weigh decides what an epoch is worth
                    model = model.with_blend(fit_blend(model, validation))
                ndcg = validation_ndcg(model, validation)
            if workers.count > 1:
                copy_from_first(network.state_dict(), device)
                ndcg = from_first(ndcg, device)
            seconds = time.perf_counter() - started
            rate = float(optimizer.param_groups[0]["lr"])
            record = EpochRecord(epoch, total / steps, ndcg, seconds, rate, _weights(network))
            progress.records.append(record)
            if earlier is not None or ndcg > progress.best_ndcg:
                progress.best_epoch, progress.best_ndcg = epoch, ndcg
                progress.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            if checkpoint_folder is not None and workers.first:
                save_checkpoint(checkpoint_folder, progress, network, optimizer)
            for run in runs:
                run.epoch(record)
            on_epoch(record)
        for run in runs:
            run.end({"ndcg@10": progress.best_ndcg})

    network.load_state_dict(progress.best)
    kernel = fit_text_kernel(torch.from_numpy(text[:product_count]), model_config.text_kernel_dimension)
    model = assemble(network, text, graph, statistics, kernel)
    if earlier is not None:
        model = model.with_blend(earlier.model.blend)
        return Trained(model, kernel, graph, progress.records, earlier.best_epoch, earlier.validation_ndcg)
    model = model.with_blend(fit_blend(model, validation))
    ndcg = validation_ndcg(model, validation)
    return Trained(model, kernel, graph, progress.records, progress.best_epoch, ndcg)


def check_learnable(histories: Histories, model_config: ModelConfig, config: TrainConfig) -> None:
    """Refuse what can't be trained, before anything that takes long is done for it.

    Raises:
        ModelError: settings contradict each other, there is no such device, or nothing to learn from.
    """
    if model_config.repeat and config.objective != "next_basket":
        raise ModelError(
            f"model.repeat is learned by train.objective next_basket only (got {config.objective})",
            "Set train.objective to next_basket, or model.repeat to false.",
        )
    device_of(config)
    if not count_batches(histories, config):
        raise nothing_to_learn(config)


def _take_over(network: RankingNetwork, earlier: RankingNetwork) -> None:
    """Give a network the weights of an earlier one; a relation that this one did not have stays as it begins."""
    weights = earlier.state_dict()
    logit = network.relation_logit.detach().clone()
    for column, name in enumerate(earlier.relation_names):
        logit[:, network.relation_names.index(name)] = weights["relation_logit"][:, column]
    network.load_state_dict(weights | {"relation_logit": logit})


@torch.inference_mode()
def assemble(
    network: RankingNetwork,
    text: npt.NDArray[np.float32],
    graph: ProductGraph,
    statistics: ProductStatistics,
    kernel: TextKernel,
    identity_index: Tensor | None = None,
) -> TrainedModel:
    """Compute the product matrix of a network on a graph, and return both as a model on the CPU.

    Args:
        network: trained, on any device; it is copied.
        text: `[N, W]` text features of the graph's nodes.
        graph: the graph, which may have other nodes than that of training.
        statistics: of the P products.
        kernel: the text component.
        identity_index: `[N]` row of each node's id embedding, -1 without; by default each node has its own.
    """
    network = copy.deepcopy(network).eval()
    device = network.layer_logit.device
    features = torch.from_numpy(text)
    if identity_index is None:
        identity_index = torch.arange(len(graph))
    relations = graph.relations_of(network.relation_names, device)
    nodes = network.nodes(features.to(device), identity_index.to(device), relations)
    products = nodes[: graph.product_count].float().cpu()
    network = network.cpu()
    # Never 0: popularity is all that speaks for a product when nothing is known of the user.
    blend = Blend(popularity=max(float(network.popularity_weight), min(GRID[POPULARITY])))
    kernel_features = kernel(features[: graph.product_count])
    return TrainedModel((network,), products, kernel_features, statistics, blend)


def validation_ndcg(model: TrainedModel, case: Case) -> float:
    """Return the mean NDCG@10 of a case over the full catalogue."""
    values = []
    for start in range(0, len(case), _VALIDATION_BATCH):
        part = case.take(np.arange(start, min(start + _VALIDATION_BATCH, len(case))))
        with torch.inference_mode():
            scores = full_scores(model, model.encode_users(part.histories, part.now_ms)).numpy()
        ranked, _ = top_k(scores, 10, seen=part.seen, candidates=part.candidates)
        values.append(per_user(ranked, part.truth_offsets, part.truth_product_index, (10,))["ndcg@10"])
    return float(np.concatenate(values).mean())


def _optimizer(network: RankingNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW; the small repeat score, of inputs that stand still, takes larger steps than the network."""
    repeat = [] if network.repeat is None else list(network.repeat.parameters())
    fast = {id(parameter) for parameter in repeat}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in fast]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": repeat, "lr": config.learning_rate * _REPEAT_STEP}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def validation_sample(case: Case, config: TrainConfig) -> Case:
    """Return the case with at most `validation_users` of its users, the same ones in every run of a seed."""
    if len(case) <= config.validation_users:
        return case
    generator = np.random.default_rng(config.seed)
    return case.take(np.sort(generator.choice(len(case), config.validation_users, replace=False)))


def device_of(config: TrainConfig) -> torch.device:
    """Return where to train.

    Raises:
        ModelError: CUDA is asked for, and there is none.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("train.device is cuda, but torch sees no CUDA device", "Set train.device to auto or cpu.")
    return torch.device(config.device)


def _comes_to(progress: Progress, *, last_epoch: int, patience: int, chooses: bool) -> bool:
    """Return whether a run comes to where another stood that may have had more epochs, or more patience.

    Args:
        progress: where that one stood.
        last_epoch: of this run.
        patience: of this run.
        chooses: whether the best epoch is kept, and not the last.
    """
    best_epoch, best_ndcg = 0, -1.0
    for done, record in enumerate(progress.records):
        if done >= last_epoch or done - best_epoch >= patience:
            return False
        if not chooses or record.ndcg > best_ndcg:
            best_epoch, best_ndcg = record.epoch, record.ndcg
    return True


def _weights(network: RankingNetwork) -> dict[str, float]:
    """Return what the network counts things by, for people who watch it learn."""
    layers = {f"layer/{row}": share for row, share in enumerate(network.layer_logit.detach().softmax(0).tolist())}
    relations = {f"relation/{name}": weight for name, weight in network.relation_weights().items()}
    return relations | layers | {"popularity": float(network.popularity_weight.detach())}


def _dotted(section: str, config: BaseModel) -> dict[str, Any]:
    """Return a section's settings by dotted key."""
    return {f"{section}.{name}": value for name, value in config.model_dump(mode="json").items()}


def _run_key(
    snapshot: Snapshot,
    split: Split,
    text: npt.NDArray[np.float32],
    model_config: ModelConfig,
    config: TrainConfig,
    workers: Workers,
    epochs_before: int,
) -> str:
    """Return a digest of what a run's result depends on; a checkpoint of another key is not resumed from.

    The number of epochs and the patience are left out, so that a finished run can be trained on; so is what is done
    with the network afterwards, so that an ensemble can be given more members.
    """
    later = {"epochs", "patience", "members", "refit", "refit_epochs", "refit_step"}
    described = [
        snapshot.content_hash,
        split.config.model_dump(mode="json"),
        hashlib.blake2b(np.ascontiguousarray(text).data, digest_size=16).hexdigest(),  # a folder's encoder may change
        model_config.model_dump(mode="json"),
        config.model_dump(mode="json", exclude=later),
        workers.count,
        len(split.train.product_index),  # a refit trains on more
        epochs_before,
    ]
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
