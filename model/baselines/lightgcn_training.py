"""How LightGCN is trained: pairs of what a user had and has not had, on PyTorch Geometric's network."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from model.baselines.contract import FitData
from model.baselines.known_users import KnownUsers
from model.baselines.lightgcn import LightGcnConfig, LightGcnRanker
from model.baselines.stopping import train_until_best
from model.baselines.taken import incidence
from model.errors import ModelError
from model.threads import torch_threads

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)  # PyTorch Geometric scripts some layers on import
    from torch_geometric.nn import LightGCN

EPOCH_STEPS = 64
"""Most steps in an epoch, after each of which validation is asked: larger data have larger batches."""

DRAWS = 20
"""How often a negative that the user has had is drawn anew: who had half of the catalogue keeps one of a million."""


def train(data: FitData, config: LightGcnConfig) -> LightGcnRanker:
    """Train on `data.known`, which must not hold the truth of a validation that is looked at.

    Raises:
        ModelError: nobody has had anything.
    """
    had = incidence(data.known, data.product_count)
    if not had.nnz:
        raise ModelError("no user has an interaction to learn from", "Load more interactions.")
    user_count = had.shape[0]
    pairs = had.tocoo()
    user, product = (torch.from_numpy(ends.astype(np.int64)) for ends in pairs.coords)
    known = KnownUsers(data.known)
    with torch_threads(data.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        graph = normalised(had)
        network = network_of(user_count + data.product_count, config)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

        def train_epoch(number: int) -> float:
            generator = np.random.default_rng([data.seed, number])
            order = torch.from_numpy(generator.permutation(len(user)))
            total = 0.0
            parts = torch.split(order, max(config.batch_pairs, -(-len(order) // EPOCH_STEPS)))
            for part in parts:
                negative = torch.from_numpy(not_had(had, pairs.coords[0][part.numpy()], generator))
                ends = (user[part], user_count + product[part], user_count + negative)
                vectors = network.get_embedding(graph)
                asked, right, wrong = (vectors[nodes] for nodes in ends)
                loss = network.recommendation_loss(
                    (asked * right).sum(1), (asked * wrong).sum(1), torch.cat(ends), config.regularization
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
            return total / len(parts)

        def ranker() -> LightGcnRanker:
            return ranker_of(network, graph, had, known)

        train_until_best(
            network,
            train_epoch,
            ranker,
            None if data.to_the_end else data.validation,
            epochs=config.epochs,
            patience=config.patience,
            seed=data.seed,
            on_epoch=lambda record: data.on_epoch(config, record),
        )
        return ranker()


def not_had(
    had: sparse.csr_matrix, users: npt.NDArray[np.int64], generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw a product for each of `users`, evenly from those that the user has not had (who had all: from all)."""
    drawn = generator.integers(0, had.shape[1], len(users))
    for _ in range(DRAWS):
        wrong = np.flatnonzero(np.asarray(had[users, drawn]).ravel())
        if not len(wrong):
            break
        drawn[wrong] = generator.integers(0, had.shape[1], len(wrong))
    return drawn


class SymmetricProduct(torch.autograd.Function):
    """A x for a symmetric A: the gradient is A as well, where torch would sort a transposed copy of A in every step."""

    @staticmethod
    def forward(ctx: Any, graph: Tensor, x: Tensor) -> Tensor:
        """Return A x."""
        ctx.graph = graph
        return graph @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Return A g."""
        return None, ctx.graph @ gradients[0].contiguous()


class SymmetricConv(torch.nn.Module):
    """What PyTorch Geometric's `LGConv` computes, for a graph that is symmetric and normalised already."""

    def forward(self, x: Tensor, graph: Tensor, weight: None = None) -> Tensor:
        """Return the sums over neighbours `[N, d]`."""
        product: Tensor = SymmetricProduct.apply(graph, x)
        return product


def network_of(node_count: int, config: LightGcnConfig) -> LightGCN:
    """Return an untrained network for graphs like those of `normalised`."""
    network = LightGCN(node_count, config.dimension, config.layers)
    network.convs = torch.nn.ModuleList(SymmetricConv() for _ in range(config.layers))
    return network


def normalised(had: sparse.csr_matrix) -> Tensor:
    """Return the normalised adjacency of users and products as a sparse CSR tensor: PyG's fast path on a processor."""
    adjacency = sparse.block_array([[None, had], [had.T, None]], format="csr")
    scale = 1 / np.sqrt(np.maximum(np.asarray(adjacency.sum(axis=1)).ravel(), 1)).astype(np.float32)
    adjacency = (sparse.diags_array(scale) @ adjacency @ sparse.diags_array(scale)).tocsr().astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(adjacency.indptr.astype(np.int64)),
            torch.from_numpy(adjacency.indices.astype(np.int64)),
            torch.from_numpy(adjacency.data),
            adjacency.shape,
            check_invariants=True,
        )


@torch.no_grad()
def ranker_of(network: LightGCN, graph: Tensor, had: sparse.csr_matrix, known: KnownUsers) -> LightGcnRanker:
    """Return a network as a ranker: every layer's vectors of the products, and the first layer's of the users."""
    layers = [network.embedding.weight]
    for conv in network.convs:
        layers.append(conv(layers[-1], graph))
    vectors = torch.stack(layers).numpy()  # [L + 1, U + P, d]
    user_count = had.shape[0]
    return LightGcnRanker(vectors[0, :user_count].copy(), vectors[:, user_count:].copy(), had, known)
