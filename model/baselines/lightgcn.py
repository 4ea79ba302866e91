"""LightGCN: embeddings of users and products, smoothed over who had what, of PyTorch Geometric.

    e^(l+1) = D^(−1/2) A D^(−1/2) e^(l),     e = mean over layers of e^(l),     score(u, p) = e_u · e_p

trained by pairs (BPR): He et al. 2020, arXiv:2002.02126; `torch_geometric.nn.LightGCN`. A user's layers above the first
are sums over the history, so they are computed from the history that is asked about, with the trained products; the
first, trained one is that of the user whose history it is, and zero for a new user.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.known_users import UNKNOWN, KnownUsers
from model.baselines.space import Axis, Choice, Real, Whole
from model.baselines.taken import incidence
from model.ranker import Ranker

Float32s = npt.NDArray[np.float32]


class LightGcnConfig(BaseModel):
    """The network and its training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: int = Field(64, ge=2, le=2048, description="length of a vector")
    layers: int = Field(2, ge=0, le=8, description="rounds of smoothing; 0 is BPR with matrix factorisation")
    regularization: float = Field(1e-4, ge=0, le=10, description="L2 penalty on the first layer of each batch")
    batch_pairs: int = Field(4096, ge=1, le=10_000_000, description="pairs in a training step, at least")
    learning_rate: float = Field(5e-3, gt=0, le=1, description="step size of Adam")
    epochs: int = Field(400, ge=1, le=10_000, description="passes over the interactions at most")
    patience: int = Field(20, ge=1, le=1000, description="epochs without a better validation NDCG@10 before stopping")


GRID = (LightGcnConfig(),)
SPACE: Mapping[str, Axis] = {
    "dimension": Choice((64, 128)),
    "layers": Whole(1, 4),
    "regularization": Real(1e-6, 1e-2, log=True),
    "learning_rate": Real(1e-3, 2e-2, log=True),
}


class LightGcnRanker:
    """Trained vectors: first layers of users `[U, d]`, and of every layer of products `[L + 1, P, d]`."""

    name = "lightgcn"

    def __init__(self, users: Float32s, products: Float32s, had: sparse.csr_matrix, known: KnownUsers) -> None:
        self._users = users
        self._layers = products
        self._mean = products.mean(axis=0)
        self._scale = 1 / np.sqrt(np.maximum(np.asarray(had.sum(axis=0)).ravel(), 1)).astype(np.float32)
        self._known = known

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Smooth the history's products into the user, and return the user's product with all products `[B, P]`."""
        user = self._known.find(histories)
        total = np.where((user == UNKNOWN)[:, None], np.float32(0), self._users[user])
        had = incidence(histories, len(self._scale))
        size = np.sqrt(np.maximum(np.asarray(had.sum(axis=1)), 1)).reshape(-1, 1)
        had = had @ sparse.diags_array(self._scale)
        for layer in self._layers[:-1]:
            total = total + (had @ layer) / size
        scores: Float32s = (total / len(self._layers) @ self._mean.T).astype(np.float32)
        return scores


def fit(data: FitData, config: LightGcnConfig) -> Ranker:
    """Train until validation no longer gains."""
    from model.baselines.lightgcn_training import train  # PyTorch Geometric takes seconds to import

    return popular_when_cold(train(data, config), data)
