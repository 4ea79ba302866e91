"""A trained model on a newer snapshot: products, facts and transitions that came after training, without training.

The same propagation runs over the newer graph. A node that training knew keeps its id embedding; a new one has none, so
that it is made of its text and its neighbours alone: the case that id dropout trains.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kg.snapshot import Histories, Snapshot
from kg.vocabulary import MISSING, Vocabulary
from model.artifact import Artifact
from model.discovery import kinds_of, moment_of
from model.ensemble import combine
from model.learned_neighbours import LearnedNeighbours
from model.popularity import product_statistics
from model.product_graph import product_graph
from model.scorer import TextKernel, TrainedModel
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
    return extend(
        artifact.scorer,
        artifact.kernel,
        artifact.node_keys,
        snapshot,
        snapshot.histories,
        snapshot.as_of_ms,
        cache_folder,
        progress,
    )


def extend(
    model: TrainedModel,
    kernel: TextKernel,
    node_keys: Vocabulary,
    snapshot: Snapshot,
    histories: Histories,
    now_ms: int,
    cache_folder: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> TrainedModel:
    """Return a model over the products of a snapshot, its weights and component weights as they are.

    Args:
        model: trained on other products, or the same.
        kernel: its text component.
        node_keys: the nodes that it has id embeddings of, in their order.
        snapshot: products, nodes and facts to rank with.
        histories: the interactions that transitions and statistics are counted in.
        now_ms: the moment that popularity is of.
        cache_folder: where text features are cached.
        progress: called with counts of texts that have their features.

    Raises:
        ModelError: the text encoder can't be loaded.
    """
    config = model.network.config
    graph = product_graph(snapshot, histories, config)
    text = encode_cached(graph.texts, config.text, cache_folder, progress)
    identity_index = torch.from_numpy(node_keys.indices(graph.keys.array.to_pylist())).long()
    place = graph.keys.indices(node_keys.array[: len(model.matrix)].to_pylist()).astype(np.int64)
    place[place >= graph.product_count] = MISSING  # it is in the facts, but in the catalogue no more
    newcomer = np.ones(graph.product_count, np.bool_)
    newcomer[place[(place >= 0) & ~model.statistics.newcomer]] = False
    statistics = replace(
        product_statistics(histories, now_ms, config.popularity_half_life_days, graph.product_count), newcomer=newcomer
    )
    members = [assemble(network, text, graph, statistics, kernel, identity_index) for network in model.networks]
    extended = combine(members).with_blend(model.blend)
    neighbours = model.neighbours
    if isinstance(neighbours, LearnedNeighbours):
        moment = moment_of(histories, now_ms, kinds_of(snapshot, config.exclude_relations))
        neighbours = neighbours.moved(place, moment)
    elif neighbours is not None:
        neighbours = neighbours.moved(place, graph.product_count)
    extended = extended.with_neighbours(neighbours)
    return extended.with_loans() if model.lends else extended
