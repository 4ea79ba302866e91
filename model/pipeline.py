"""From a snapshot and its split to a trained model: the one way that training, comparing and tuning share.

[snapshot, split ── finetune ──> encoder]
snapshot, split.train ── product_graph ──> graph ── encode_cached ──> text features ── train (each member) ──> networks
networks, split.train ── neighbours ──> model ── blend on split.validation ──> Trained [── again, on more ──> Trained]
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kg.snapshot import Snapshot
from model.blend import fit_blend
from model.checkpoint import EpochRecord
from model.config import FinetuneConfig, ModelConfig, TrainConfig
from model.ensemble import combine
from model.finetune.run import TuningListener, finetune
from model.hold_out import without_products
from model.learned_neighbours import AnyNeighbours, fit_learned_neighbours
from model.neighbours import fit_neighbours
from model.newcomers import blend_with_newcomers
from model.product_graph import ProductGraph, check_relations, product_graph
from model.refresh import extend
from model.splits import Split
from model.text import encode_cached
from model.tracking import Tracking
from model.train import Trained, check_learnable, train, validation_ndcg, validation_sample
from model.workers import first_worker_first

REFITTED = ("leave-one-out", "temporal")
"""The protocols after which a model may be trained again; the others hold products or users out for good."""

_NEXT_SEED = 7919


@dataclass(frozen=True)
class Listener:
    """Who hears how far a fit is.

    Args:
        on_graph: called once, with the graph that is learned on.
        on_text: called with counts of nodes whose text has been read, the graph's size in all.
        on_step: called with the step in the epoch, their number and the loss.
        on_epoch: called after every epoch.
        on_epoch_again: called after every epoch of a refit, of which no validation can tell how good it is.
        on_window: called with the window that learned neighbours have read, and their number.
        on_chosen: called once, with what validation chose: the result, or what it is trained again from.
        finetuning: hears of the text encoder's fine-tuning, which comes first.
    """

    on_graph: Callable[[ProductGraph], None] = lambda graph: None
    on_text: Callable[[int], None] = lambda count: None
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    on_epoch: Callable[[EpochRecord], None] = lambda record: None
    on_epoch_again: Callable[[EpochRecord], None] = lambda record: None
    on_window: Callable[[int, int], None] = lambda window, windows: None
    on_chosen: Callable[[Trained], None] = lambda trained: None
    finetuning: TuningListener = field(default_factory=TuningListener)


def fit_model(
    snapshot: Snapshot,
    split: Split,
    model_config: ModelConfig,
    train_config: TrainConfig,
    text_cache_folder: Path,
    *,
    finetune_config: FinetuneConfig | None = None,
    encoders_folder: Path | None = None,
    checkpoint_folder: Path | None = None,
    resume: bool = False,
    tracking: Tracking | None = None,
    listener: Listener | None = None,
) -> Trained:
    """Train a model on `split.train`; the epoch and the component weights are chosen on `split.validation`.

    Products that the split holds out are not there while it trains: the network is brought to them afterwards, so that
    its model ranks all products of the snapshot, but its `graph` has only those that it was trained on.

    Args:
        snapshot: products, nodes and facts.
        split: what to train on and to choose by; its test case is not touched.
        model_config: the network.
        train_config: the run.
        text_cache_folder: where text features are cached.
        finetune_config: how the text encoder is fine-tuned first; not at all when unset.
        encoders_folder: where fine-tuned encoders are kept and found again; beside the text features when unset.
        checkpoint_folder: where a checkpoint is kept after every epoch; none when unset.
        resume: go on from the checkpoint there, if it is of the same data and settings.
        tracking: where training is told of, beside the listener.
        listener: hears how far it is.

    Raises:
        ModelError: nothing to train on, settings that can't be had together, a loss that is not finite, a damaged
            checkpoint, or no such text encoder.
    """
    hears = listener or Listener()
    whole, asked = snapshot, split
    if split.held_out is not None:
        snapshot, split = without_products(snapshot, split, split.held_out)
    # First what may be refused: fine-tuning and training take long.
    check_learnable(split.train, model_config, train_config)
    check_relations(snapshot, model_config.exclude_relations)
    members = _Members(
        snapshot, model_config, train_config, text_cache_folder, checkpoint_folder, resume, tracking, hears
    )
    refit = refit_of(train_config.refit, split.config.protocol)
    later = None if refit == "none" else _later(split, snapshot, refit)
    neighbours = members.neighbours(split)
    later_neighbours = None if later is None else members.neighbours(later)
    if finetune_config is not None and finetune_config.method != "none":
        with first_worker_first():
            tuned = finetune(
                snapshot,
                split,
                model_config,
                train_config,
                finetune_config,
                encoders_folder or text_cache_folder / "encoders",
                checkpoint_folder=checkpoint_folder and checkpoint_folder / "finetune",
                resume=resume,
                listener=hears.finetuning,
            )
        text_config = model_config.text.model_copy(update={"encoder": str(tuned.folder)})
        members = replace(members, model_config=model_config.model_copy(update={"text": text_config}))
    chosen = members.fit(split)
    trained = _together(chosen, neighbours)
    sample = validation_sample(split.validation, train_config)
    trained = replace(trained, model=trained.model.with_blend(fit_blend(trained.model, sample)))
    blend = blend_with_newcomers(trained, snapshot, split.train, sample, text_cache_folder, train_config.newcomer_share)
    model = trained.model.with_blend(blend)
    if asked.held_out is not None:  # it joins as a product of tomorrow would
        sample, keys = asked.validation, trained.graph.keys
        now_ms = int(sample.now_ms.max())
        model = extend(model, trained.kernel, keys, whole, asked.train, now_ms, text_cache_folder)
    trained = replace(trained, model=model, validation_ndcg=validation_ndcg(model, sample))
    hears.on_chosen(trained)
    if later is None:
        return trained
    again = _together(members.fit(later, chosen), later_neighbours)
    # What validation said is told of the result: a refit has no validation of its own.
    return replace(
        again,
        model=again.model.with_blend(trained.model.blend),
        records=trained.records,
        validation_ndcg=trained.validation_ndcg,
    )


def refit_of(refit: str, protocol: str) -> str:
    """Return what a model of a protocol is trained again on: as `train.refit` says, if at all."""
    return refit if protocol in REFITTED else "none"


@dataclass(frozen=True)
class _Members:
    """The networks of one model: trained alike, from different seeds."""

    snapshot: Snapshot
    model_config: ModelConfig
    train_config: TrainConfig
    text_cache_folder: Path
    checkpoint_folder: Path | None
    resume: bool
    tracking: Tracking | None
    hears: Listener

    def neighbours(self, split: Split) -> AnyNeighbours | None:
        """Fit the neighbours that all of them have, on a split's training histories."""
        config = self.model_config
        fitted_on = (self.snapshot, split.train, config.neighbours, config.exclude_relations)
        if config.neighbours.kind == "learned":
            return fit_learned_neighbours(*fitted_on, self.hears.on_window)
        return fit_neighbours(*fitted_on)

    def fit(self, split: Split, earlier: list[Trained] | None = None) -> list[Trained]:
        """Train all on a split; each for as many epochs as its `earlier` run found best, or on from its network."""
        graph = product_graph(self.snapshot, split.train, self.model_config)
        if earlier is None:
            self.hears.on_graph(graph)
        with first_worker_first():
            on_text = self.hears.on_text if earlier is None else lambda count: None
            text = encode_cached(graph.texts, self.model_config.text, self.text_cache_folder, on_text)
        trained = []
        for member in range(self.train_config.members):
            folder = self.checkpoint_folder
            if folder and (member or earlier):
                folder = folder / f"{'refit' if earlier else 'member'}-{member}"
            trained.append(
                train(
                    self.snapshot,
                    split,
                    text,
                    graph,
                    self.model_config,
                    self.train_config.model_copy(update={"seed": self.train_config.seed + _NEXT_SEED * member}),
                    checkpoint_folder=folder,
                    resume=self.resume,
                    earlier=earlier[member] if earlier else None,
                    tracking=None if earlier else self.tracking,
                    on_step=self.hears.on_step,
                    on_epoch=self.hears.on_epoch_again if earlier else self.hears.on_epoch,
                )
            )
        return trained


def _together(members: list[Trained], neighbours: AnyNeighbours | None) -> Trained:
    """Return the members as one model, with the neighbours of what they were trained on."""
    model = combine([member.model for member in members]).with_neighbours(neighbours).with_loans()
    return replace(members[0], model=model)


def _later(split: Split, snapshot: Snapshot, refit: str) -> Split:
    """Return a split that trains on what the test case knows, or on everything; its cases only tell the time."""
    if refit == "known":
        return replace(split, train=split.test.known, validation=split.test)
    now = replace(split.test, now_ms=np.full_like(split.test.now_ms, snapshot.as_of_ms))  # the moment of `refresh`
    return replace(split, train=snapshot.histories, validation=now)
