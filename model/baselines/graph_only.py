"""Graph only: a random walk with restart from the history over the knowledge graph.

    π ← (1 − ρ) s + ρ W^T π,  `steps` times;     score(u, p) = π_p / degree_p^β

s is the weighted history, W steps to a relation of the node at random and then to one of its neighbours at random, both
ways along every fact, so that a relation with many facts does not drown the others. With `interactions` users are nodes
too: products that the same users had are two steps apart. Personalised PageRank (Haveliwala 2002; Page et al. 1999);
β > 0 takes back the advantage of well-linked products (Paudel et al. 2017, RP3-beta).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.likeness import blocks
from model.baselines.space import Axis, Choice, Real, Whole
from model.baselines.taken import HistoryConfig, incidence, taken
from model.ranker import Ranker

Float32s = npt.NDArray[np.float32]


class GraphOnlyConfig(HistoryConfig):
    """The walk."""

    position_decay: float = Field(0.7, gt=0, le=1, description="factor for each later interaction of the user")
    steps: int = Field(4, ge=1, le=50, description="steps of the walk")
    damping: float = Field(0.85, gt=0, lt=1, description="share of walkers who go on at each step")
    degree_power: float = Field(0.3, ge=0, le=2, description="how much a product's degree is held against it")
    interactions: bool = Field(False, description="users are nodes of the graph too")


GRID = (
    GraphOnlyConfig(),
    GraphOnlyConfig(steps=2),
    GraphOnlyConfig(degree_power=0),
    GraphOnlyConfig(degree_power=0.6),
    GraphOnlyConfig(interactions=True),
    GraphOnlyConfig(interactions=True, degree_power=0.6),
)
SPACE: Mapping[str, Axis] = {
    "position_decay": Real(0.3, 1),
    "steps": Whole(2, 6),
    "damping": Real(0.5, 0.95),
    "degree_power": Real(0, 1),
    "interactions": Choice((False, True)),
}


class RandomWalk:
    """Walkers start at the history and go back to it now and then.

    Args:
        step: `[N, N]` sparse, row i is where a walker at node i goes; products are the first P nodes.
        product_degree: `[P]` edges of each product.
        config: the walk.
    """

    name = "graph_only"

    def __init__(self, step: sparse.csr_matrix, product_degree: Float32s, config: GraphOnlyConfig) -> None:
        self._step = step
        self._discount = np.maximum(product_degree, 1) ** np.float32(-config.degree_power)
        self._config = config

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Return where walkers are after the last step `[B, P]`."""
        product_count, damping = len(self._discount), np.float32(self._config.damping)
        weights = taken(histories, now_ms, self._config, product_count)
        scores = np.empty((len(histories), product_count), np.float32)
        for rows in blocks(len(histories), self._step.shape[0]):
            begin = np.zeros((weights[rows].shape[0], self._step.shape[0]), np.float32)
            begin[:, :product_count] = weights[rows].toarray()
            begin /= np.maximum(begin.sum(axis=1, keepdims=True), 1e-12)
            at = begin
            for _ in range(self._config.steps):
                at = (1 - damping) * begin + damping * (at @ self._step)
            scores[rows] = at[:, :product_count] * self._discount
        return scores


def fit(data: FitData, config: GraphOnlyConfig) -> Ranker:
    """Build the steps."""
    node_count, product_count = data.snapshot.node_count, data.product_count
    relations = []
    for edges in data.facts.values():
        ones = np.ones(len(edges), np.float32)
        forward = sparse.csr_matrix((ones, (edges.head, edges.tail)), (node_count, node_count))
        relations.append((forward + forward.T).tocsr())
    if config.interactions:
        had = incidence(data.known, product_count)
        had.resize(had.shape[0], node_count)
        node_count += had.shape[0]
        for relation in relations:
            relation.resize(node_count, node_count)
        relations.append(sparse.block_array([[None, had.T], [had, None]], format="csr"))
    step, degree = _step(relations, node_count)
    return popular_when_cold(RandomWalk(step, degree[:product_count], config), data)


def _step(relations: list[sparse.csr_matrix], node_count: int) -> tuple[sparse.csr_matrix, Float32s]:
    """Return where walkers go `[N, N]`, and the edges of each node `[N]`; a node without edges keeps its walkers."""
    degrees = [np.asarray(relation.sum(axis=1)).ravel() for relation in relations]
    has = np.sum([degree > 0 for degree in degrees], axis=0, dtype=np.float32) if degrees else np.zeros(node_count)
    total = sparse.diags_array((has == 0).astype(np.float32)).tocsr()
    for relation, degree in zip(relations, degrees, strict=True):
        scale = np.divide(1, degree * has, out=np.zeros(node_count, np.float32), where=degree > 0)
        total = total + sparse.diags_array(scale) @ relation
    edges: Float32s = np.sum(degrees, axis=0, dtype=np.float32) if degrees else np.zeros(node_count, np.float32)
    return total.astype(np.float32).tocsr(), edges
