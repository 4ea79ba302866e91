"""Pairs of products that belong together: what contrastive learning pulls towards each other.

    w_ab = Σ_{a, b within `lags` steps of one history} lag_decay^(steps − 1)    what one user had in turn
         + fact_weight · facts between a and b                                  also_*, where the model may see them
         + likeness_weight · draws of a and b by a brand, a category, …         weaker, and all that cold products have

The histories are those of training: nothing that is asked for in validation or test makes a pair.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kg.snapshot import Histories, Snapshot
from model.config import FinetuneConfig

Int64s = npt.NDArray[np.int64]


def positive_pairs(
    snapshot: Snapshot,
    histories: Histories,
    exclude_relations: tuple[str, ...],
    config: FinetuneConfig,
    generator: np.random.Generator,
) -> sparse.csr_matrix:
    """Return the weight of every pair `[P, P]`: symmetric, float32, nothing on the diagonal, no stored zeros.

    Args:
        snapshot: products and facts.
        histories: of training.
        exclude_relations: relations that the model must not see.
        config: what pairs weigh.
        generator: draws the pairs that share a brand or the like.
    """
    size = len(snapshot.products)
    heads: list[Int64s] = [np.empty(0, np.int64)]
    tails: list[Int64s] = [np.empty(0, np.int64)]
    weights: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)]

    def add(head: npt.NDArray[np.integer], tail: npt.NDArray[np.integer], weight: float) -> None:
        heads.append(head.astype(np.int64))
        tails.append(tail.astype(np.int64))
        weights.append(np.full(len(head), weight, np.float32))

    users, product = histories.users_of_rows(), histories.product_index
    for lag in range(1, config.lags + 1):
        together = users[lag:] == users[:-lag]
        add(product[:-lag][together], product[lag:][together], config.lag_decay ** (lag - 1))
    facts = {name: edges for name, edges in snapshot.facts.items() if name not in exclude_relations}
    for _, edges in sorted(facts.items()):
        between = (edges.head < size) & (edges.tail < size)
        add(edges.head[between], edges.tail[between], config.fact_weight)
        describing = (edges.head < size) & (edges.tail >= size)
        if config.likeness_weight:
            head, tail = _drawn_partners(edges.head[describing], edges.tail[describing], generator)
            add(head, tail, config.likeness_weight)
    head, tail, weight = np.concatenate(heads), np.concatenate(tails), np.concatenate(weights)
    used = (head != tail) & (weight > 0)
    one_way = sparse.csr_matrix((weight[used], (head[used], tail[used])), shape=(size, size))
    return (one_way + one_way.T).tocsr()


def _drawn_partners(
    product: npt.NDArray[np.int32], node: npt.NDArray[np.int32], generator: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Draw, for every edge product -> node, one product of the same node (the product itself where it is alone)."""
    order = np.argsort(node, kind="stable")
    product, node = product[order], node[order]
    _, start, count = np.unique(node, return_index=True, return_counts=True)
    begin, size = np.repeat(start, count), np.repeat(count, count)
    return product, product[begin + generator.integers(0, size)] if len(product) else product
