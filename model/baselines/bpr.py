"""BPR: matrix factorisation by pairs, what a user had above what the user had not, of the library `implicit`.

    max Σ_{u, i had, j not} ln σ(x_u·y_i − x_u·y_j) − λ (||x_u||² + ||y_i||² + ||y_j||²)

(Rendle et al. 2009, arXiv:1205.2618). The library draws j by popularity, not evenly: it learns less of what all like,
and more of what tells users apart. The first configuration is the library's own. A user's vector is trained, so a
history that was not trained on takes the mean of the vectors of the users who had the same products, weighted by how
many of them they share.
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
from model.baselines.space import Axis, Real, Whole
from model.baselines.taken import incidence
from model.ranker import Ranker
from model.threads import one_blas_thread

Float32s = npt.NDArray[np.float32]


class BprConfig(BaseModel):
    """The settings of `implicit.bpr.BayesianPersonalizedRanking`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factors: int = Field(100, ge=1, le=2048, description="length of a vector")
    learning_rate: float = Field(0.01, gt=0, le=10, description="step of stochastic gradient descent")
    regularization: float = Field(0.01, ge=0, le=100, description="λ")
    iterations: int = Field(100, ge=1, le=10_000, description="passes over the interactions")


GRID = (
    BprConfig(),
    BprConfig(factors=64, iterations=40),
    BprConfig(factors=64, learning_rate=0.005, iterations=60),
    BprConfig(learning_rate=0.05),
    BprConfig(learning_rate=0.05, regularization=0.003, iterations=200),
    BprConfig(regularization=0.05),
)
SPACE: Mapping[str, Axis] = {
    "factors": Whole(32, 256, log=True),
    "learning_rate": Real(0.003, 0.1, log=True),
    "regularization": Real(0.001, 0.1, log=True),
    "iterations": Whole(20, 400, log=True),
}


class Bpr:
    """Vectors of users `[U, F]` and products `[P, F]`, each product's bias among them, and who the users are."""

    name = "bpr"

    def __init__(self, users: Float32s, products: Float32s, known: KnownUsers, had: sparse.csr_matrix) -> None:
        self.users = users
        self.products = products
        self._known = known
        self._had = had

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Return the products of vectors `[B, P]`."""
        user = self._known.find(histories)
        vectors = self.users[user]
        strangers = np.flatnonzero(user == UNKNOWN)
        if len(strangers):
            shared = incidence(histories.take(strangers), self._had.shape[1]) @ self._had.T  # [S, U] products in common
            vectors[strangers] = shared @ self.users / np.maximum(np.asarray(shared.sum(axis=1)), 1)
        scores: Float32s = vectors @ self.products.T
        return scores


def fit(data: FitData, config: BprConfig) -> Ranker:
    """Let `implicit` descend, on one thread: with more, the order of its steps is left to chance."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    had = incidence(data.known, data.product_count)
    with one_blas_thread():
        model = BayesianPersonalizedRanking(**config.model_dump(), num_threads=1, random_state=data.seed)
        model.fit(had, show_progress=False)
    return popular_when_cold(Bpr(model.user_factors, model.item_factors, KnownUsers(data.known), had), data)
