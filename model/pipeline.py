"""From a snapshot and its split to a trained model: the one way that training, comparing and tuning share.

[snapshot, split ── finetune ──> encoder]
snapshot, split.train ── product_graph ──> graph ── encode_cached ──> text features ── train ──> Trained
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kg.snapshot import Snapshot
from model.blend import fit_blend
from model.checkpoint import EpochRecord
from model.config import FinetuneConfig, ModelConfig, TrainConfig
from model.finetune.run import TuningListener, finetune
from model.hold_out import without_products
from model.product_graph import ProductGraph, product_graph
from model.refresh import extend
from model.splits import Split
from model.text import encode_cached
from model.tracking import Tracking
from model.train import Trained, train, validation_ndcg
from model.workers import first_worker_first


@dataclass(frozen=True)
class Listener:
    """Who hears how far a fit is.

    Args:
        on_graph: called once, with the graph that is learned on.
        on_text: called with counts of nodes whose text has been read, the graph's size in all.
        on_step: called with the step in the epoch, their number and the loss.
        on_epoch: called after every epoch.
        finetuning: hears of the text encoder's fine-tuning, which comes first.
    """

    on_graph: Callable[[ProductGraph], None] = lambda graph: None
    on_text: Callable[[int], None] = lambda count: None
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    on_epoch: Callable[[EpochRecord], None] = lambda record: None
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
        ModelError: nothing to train on, a loss that is not finite, a damaged checkpoint, or no such text encoder.
    """
    hears = listener or Listener()
    whole, asked = snapshot, split
    if split.held_out is not None:
        snapshot, split = without_products(snapshot, split, split.held_out)
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
        model_config = model_config.model_copy(update={"text": text_config})
    graph = product_graph(snapshot, split.train, model_config)
    hears.on_graph(graph)
    with first_worker_first():
        text = encode_cached(graph.texts, model_config.text, text_cache_folder, hears.on_text)
    trained = train(
        snapshot,
        split,
        text,
        graph,
        model_config,
        train_config,
        checkpoint_folder=checkpoint_folder,
        resume=resume,
        tracking=tracking,
        on_step=hears.on_step,
        on_epoch=hears.on_epoch,
    )
    if asked.held_out is None:
        return trained
    # What was held out joins as a product of tomorrow would; the component weights are chosen with it there.
    case = asked.validation
    model = extend(
        trained.model, trained.kernel, graph.keys, whole, asked.train, int(case.now_ms.max()), text_cache_folder
    )
    model = model.with_blend(fit_blend(model, case))
    return replace(trained, model=model, validation_ndcg=validation_ndcg(model, case))
