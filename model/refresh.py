"""A trained model on a newer snapshot: products, facts and transitions that came after training, without training.

The same propagation runs over the newer graph. A node that training knew keeps its id embedding; a new one has none, so
that it is made of its text and its neighbours alone: the case that id dropout trains.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from kg.snapshot import Snapshot
from model.artifact import Artifact
from model.popularity import product_statistics
from model.product_graph import product_graph
from model.scorer import TrainedModel
from model.text import encode_cached
from model.train import assemble


def refresh(
    artifact: Artifact, snapshot: Snapshot, cache_folder: Path, progress: Callable[[int], None] = lambda _: None
) -> TrainedModel:
    """Return the artifact's model over the products of a snapshot, whose product indices it then speaks.

    Args:
        artifact: trained on an earlier snapshot, or the same.
        snapshot: what to rank now.
        cache_folder: where text features are cached.
        progress: called with counts of texts that have their features.

    Raises:
        ModelError: the text encoder can't be loaded.
    """
    network = artifact.scorer.network
    config = network.config
    graph = product_graph(snapshot, snapshot.histories, config)
    text = encode_cached(graph.texts, config.text, cache_folder, progress)
    identity_index = torch.from_numpy(artifact.node_keys.indices(graph.keys.array.to_pylist())).long()
    statistics = product_statistics(
        snapshot.histories, snapshot.as_of_ms, config.popularity_half_life_days, graph.product_count
    )
    model = assemble(network, text, graph, statistics, artifact.kernel, identity_index)
    return model.with_blend(artifact.scorer.blend)
