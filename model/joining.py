"""Products that join a model in service: their vectors, and no one else's, by the same propagation.

    h_v^(l+1) = Σ_r α_{l,r} Σ_{n ∈ N_r(v)} w_vn h_n^(l) / sqrt(d_v d_n)         for the nodes v that are new or other

A node's vector needs its neighbours' states between rounds. These are kept as they were when the model was put into
service, so that a change costs what it touches instead of the whole graph (`model.refresh`). What it leaves out is the
echo: how a new product moves its neighbours, which is as weak as its one edge among theirs. Within one change, new
nodes see each other exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kg.extending import Extension
from kg.snapshot import Snapshot
from kg.taking import taken
from kg.vocabulary import MISSING, Vocabulary
from model.graph import TRANSITION, Relation
from model.network import RankingNetwork
from model.product_graph import product_graph
from model.scorer import TextKernel, TrainedModel
from model.scoring import GRAPH, NEWCOMER, TEXT
from model.text import encode_cached

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Float32s]
"""Returns the features `[N, W]` of texts, as `model.text.TextEncoder.encode` does."""


@dataclass(frozen=True)
class HiddenStates:
    """The states of a graph's nodes between rounds of propagation.

    Args:
        row: `[N]` the row of each node of the snapshot in the states, -1 where it has none.
        trained_row: `[N]` its row when the states were made, -1 for a node that joined since.
        stored: `[R, M, L, d]` float16: of each of M networks before each of its L rounds, as it was then.
        joined: `[J, M, L, d]` of nodes that came or changed since; their rows follow.
        transitions: which products followed each other, over the rows of `stored`; None where the model has none.
    """

    row: Int64s
    trained_row: Int64s
    stored: Tensor
    joined: Tensor
    transitions: Relation | None

    def of(self, rows: Int64s) -> Tensor:
        """Return the states of some rows `[K, M, L, d]` float32."""
        known = len(self.stored)
        states = torch.empty((len(rows), *self.stored.shape[1:]))
        old = rows < known
        states[torch.from_numpy(old)] = self.stored[torch.from_numpy(rows[old])].float()
        states[torch.from_numpy(~old)] = self.joined[torch.from_numpy(rows[~old] - known)].float()
        return states


@torch.inference_mode()
def hidden_states(model: TrainedModel, node_keys: Vocabulary, snapshot: Snapshot, cache_folder: Path) -> HiddenStates:
    """Return the states of a snapshot's nodes.

    Args:
        model: over the products of the snapshot.
        node_keys: the nodes that it has id embeddings of.
        snapshot: as it was frozen: a changed one follows by `joined`.
        cache_folder: where text features are cached; without a cache, all texts are encoded, which can take minutes.

    Raises:
        ModelError: the text encoder can't be loaded.
    """
    config = model.network.config
    graph = product_graph(snapshot, snapshot.histories, config)
    text = torch.from_numpy(encode_cached(graph.texts, config.text, cache_folder))
    identity_index = torch.from_numpy(node_keys.indices(graph.keys.array.to_pylist())).long()
    of_each = []
    for network in model.networks:
        relations = graph.relations_of(network.relation_names, text.device)
        layers = list(network.layers(text, identity_index, relations))[:-1]
        of_each.append(torch.stack([layer.half() for layer in layers], dim=1) if layers else _no_layers(network, text))
    row = np.full(snapshot.node_count, MISSING, np.int64)
    row[: graph.product_count] = np.arange(graph.product_count)
    row[graph.linked] = graph.product_count + np.arange(len(graph.linked))
    stored = torch.stack(of_each, dim=1)
    return HiddenStates(row, row, stored, stored[:0], graph.relations.get(TRANSITION))


def _no_layers(network: RankingNetwork, text: Tensor) -> Tensor:
    return torch.empty((len(text), 0, network.config.dimension), dtype=torch.float16)


@torch.inference_mode()
def joined(
    model: TrainedModel,
    kernel: TextKernel,
    node_keys: Vocabulary,
    states: HiddenStates | None,
    extension: Extension,
    encode: Encode,
) -> tuple[TrainedModel, HiddenStates | None]:
    """Return a model over a changed snapshot's products, and the states for the next change.

    Args:
        model: over the products of the snapshot before.
        kernel: its text component.
        node_keys: the nodes that it has id embeddings of.
        states: of the snapshot before; None while they are being made: then new products have a text component alone.
        extension: the change.
        encode: makes text features.
    """
    snapshot = extension.snapshot
    if states is None:
        anew = extension.read_anew
        features = _features(snapshot, anew, encode)
        return _extended(model, anew, None, kernel(features), len(snapshot.products)), None
    states = _moved(states, extension)
    neighbourhood = _Neighbourhood(snapshot, model, states, extension.read_anew)
    nodes = neighbourhood.nodes
    features = _features(snapshot, nodes, encode)
    identity_index = torch.from_numpy(node_keys.indices(_keys(snapshot, nodes))).long()
    vectors, kept = [], []
    for member, network in enumerate(model.networks):
        final, layers = _propagated(network, member, features, identity_index, neighbourhood, states)
        vectors.append(final)
        kept.append(torch.stack(layers, dim=1) if layers else _no_layers(network, features))
    anew = nodes[nodes < len(snapshot.products)]
    graph = torch.cat(vectors, dim=1)[: len(anew)]
    after = _extended(model, anew, graph, kernel(features[: len(anew)]), len(snapshot.products))
    return after, _with(states, nodes, torch.stack(kept, dim=1).half())


class _Neighbourhood:
    """The nodes to compute, ascending, and the edges that lead to them, relation by relation."""

    def __init__(self, snapshot: Snapshot, model: TrainedModel, states: HiddenStates, read_anew: Int64s) -> None:
        product_count, count = len(snapshot.products), snapshot.node_count
        excluded = model.network.config.exclude_relations
        facts = {name: edges for name, edges in snapshot.facts.items() if name not in excluded}
        degree = np.zeros(count, np.int64)
        for edges in facts.values():
            degree += np.bincount(edges.head, minlength=count) + np.bincount(edges.tail, minlength=count)
        inside = degree > 1  # a node that only one edge touches links nothing (`model.product_graph`)
        inside[:product_count] = True
        inside[snapshot.products.taken_out] = False
        fresh = inside & (states.row < 0)
        chosen = fresh.copy()
        chosen[read_anew] = True
        for edges in facts.values():  # what a node links that has just begun to link
            head, tail = np.asarray(edges.head), np.asarray(edges.tail)
            chosen[head[fresh[tail] & (tail >= product_count)]] = True
            chosen[tail[fresh[head] & (head >= product_count)]] = True
        chosen &= inside
        chosen[product_count:] &= fresh[product_count:]
        self.nodes = np.flatnonzero(chosen)
        self.place = np.full(count, MISSING, np.int64)
        self.place[self.nodes] = np.arange(len(self.nodes))
        self.edges = {
            name: _normalised(np.asarray(facts[name].head), np.asarray(facts[name].tail), inside, chosen)
            for name in model.network.relation_names
            if name in facts
        }
        if states.transitions is not None and TRANSITION in model.network.relation_names:
            self.edges[TRANSITION] = _followed(states.transitions, states.trained_row, self.nodes)


_Messages = tuple[Int64s, Int64s, Float32s]
"""Target nodes `[E]`, source nodes `[E]` and weights `[E]`."""


def _normalised(
    head: npt.NDArray[np.integer],
    tail: npt.NDArray[np.integer],
    inside: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.bool_],
) -> _Messages:
    """Return the edges of one relation to chosen nodes, symmetric and normalised like `model.graph.Relation`."""
    count = len(inside)
    kept = inside[head] & inside[tail] & (head != tail)
    head, tail = head[kept].astype(np.int64), tail[kept].astype(np.int64)
    low, high = np.minimum(head, tail), np.maximum(head, tail)
    ends = np.zeros(count, np.bool_)
    ends[head] = True
    if ends[tail].any():  # else no pair can be there in both directions
        pairs = np.sort(low * count + high)
        low, high = np.divmod(pairs[np.append(True, pairs[1:] != pairs[:-1])], count) if len(pairs) else (low, high)
    degree = np.bincount(low, minlength=count) + np.bincount(high, minlength=count)
    target = np.concatenate([low[chosen[low]], high[chosen[high]]])
    source = np.concatenate([high[chosen[low]], low[chosen[high]]])
    weight = (degree[target] * degree[source]).astype(np.float64) ** -0.5
    return target, source, weight.astype(np.float32)


def _followed(transitions: Relation, trained_row: Int64s, nodes: Int64s) -> _Messages:
    """Return the transitions to nodes that were there when they were counted."""
    known = nodes[trained_row[nodes] >= 0]
    node_of_row = np.full(len(transitions.offsets) - 1, MISSING, np.int64)
    there = np.flatnonzero(trained_row >= 0)
    node_of_row[trained_row[there]] = there
    offsets, scale = transitions.offsets.numpy(), transitions.scale.numpy()
    rows = trained_row[known]
    lengths = (offsets[rows + 1] - offsets[rows]).astype(np.int64)
    before = np.cumsum(lengths) - lengths
    origin = np.repeat(np.arange(len(rows)), lengths)
    place = np.arange(len(origin)) + (offsets[rows] - before)[origin]
    source_row = transitions.neighbours.numpy()[place]
    weight = scale[rows[origin]] * scale[source_row]
    if transitions.weight is not None:
        weight = weight * transitions.weight.numpy()[place]
    return known[origin], node_of_row[source_row], weight.astype(np.float32)


def _propagated(
    network: RankingNetwork,
    member: int,
    features: Tensor,
    identity_index: Tensor,
    neighbourhood: _Neighbourhood,
    states: HiddenStates,
) -> tuple[Tensor, list[Tensor]]:
    """Return unit vectors of the nodes `[S, d]`, and their state before each round."""
    hidden = network.fused(features, identity_index)
    share = network.layer_logit.softmax(0)
    total, before = share[0] * hidden, []
    for layer in range(network.config.layers):
        alpha = F.softplus(network.relation_logit[layer])
        following = torch.zeros_like(hidden)
        for name, (target, source, weight) in neighbourhood.edges.items():
            if not len(target):
                continue
            place = neighbourhood.place[source]
            state = torch.empty((len(source), hidden.shape[1]))
            new = torch.from_numpy(place >= 0)
            state[new] = hidden[torch.from_numpy(place[place >= 0])]
            state[~new] = states.of(states.row[source[place < 0]])[:, member, layer]
            state *= torch.from_numpy(weight)[:, None]
            strength = float(alpha[network.relation_names.index(name)])
            following.index_add_(0, torch.from_numpy(neighbourhood.place[target]), state, alpha=strength)
        before.append(hidden)
        hidden = following
        total = total + share[layer + 1] * hidden
    return F.normalize(total, dim=1), before


def _moved(states: HiddenStates, extension: Extension) -> HiddenStates:
    """Return the states with their nodes named as in the changed snapshot."""
    old, new = len(extension.before.products), len(extension.snapshot.products)
    moved = []
    for rows in (states.row, states.trained_row):
        placed = np.full(extension.snapshot.node_count, MISSING, np.int64)
        placed[:old] = rows[:old]
        placed[new : new + len(rows) - old] = rows[old:]
        moved.append(placed)
    return HiddenStates(moved[0], moved[1], states.stored, states.joined, states.transitions)


def _with(states: HiddenStates, nodes: Int64s, made: Tensor) -> HiddenStates:
    """Return the states with some nodes' own; those that nobody points to any more go."""
    row, known = states.row.copy(), len(states.stored)
    row[nodes] = MISSING
    others = np.flatnonzero(row >= known)
    rest = states.joined[torch.from_numpy(row[others] - known)]
    row[others] = known + np.arange(len(others))
    row[nodes] = known + len(others) + np.arange(len(nodes))
    return HiddenStates(row, states.trained_row, states.stored, torch.cat([rest, made]), states.transitions)


def _features(snapshot: Snapshot, nodes: Int64s, encode: Encode) -> Tensor:
    """Return the text features of nodes `[S, W]`, rounded as those of the cache are."""
    count = len(snapshot.products)
    texts = taken(snapshot.catalogue.select(["text"]), nodes[nodes < count])["text"].to_pylist()
    texts += snapshot.nodes["name"].take(nodes[nodes >= count] - count).to_pylist()
    return torch.from_numpy(encode(texts).astype(np.float16).astype(np.float32))


def _keys(snapshot: Snapshot, nodes: Int64s) -> list[str]:
    """Return the keys of nodes across snapshots, as `model.product_graph.ProductGraph` has them."""
    count = len(snapshot.products)
    others = snapshot.nodes.select(["kind", "id"]).take(nodes[nodes >= count] - count).to_pylist()
    products = [f"product\t{each}" for each in snapshot.products.ids(nodes[nodes < count])]
    return products + [f"{node['kind']}\t{node['id']}" for node in others]


def _extended(model: TrainedModel, anew: Int64s, graph: Tensor | None, text: Tensor, count: int) -> TrainedModel:
    """Return the model over `count` products, some with other vectors; without a graph's, new ones have zeros there."""
    old, rows = len(model.matrix), torch.from_numpy(anew)
    matrix = torch.empty((count, model.matrix.shape[1]))
    matrix[:old] = model.matrix
    matrix[old:] = 0
    matrix[old:, model.blocks[NEWCOMER]] = 1
    matrix[rows, model.blocks[TEXT]] = text
    if graph is not None:
        matrix[rows, model.blocks[GRAPH]] = graph
    return model.over(matrix, anew)
