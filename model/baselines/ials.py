"""iALS: matrix factorisation of implicit feedback by alternating least squares, of the library `implicit`.

    min Σ_ui c_ui (p_ui − x_u·y_i)² + λ (Σ ||x_u||² + Σ ||y_i||²),   c = α for what a user had, 1 for all else

(Hu, Koren and Volinsky 2008; a strong peer when tuned: Rendle et al. 2022, arXiv:2110.14037). A user's vector is solved
for from the history when asked, so a new history needs no training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from kg.snapshot import Histories
from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.space import Axis, Real, Whole
from model.baselines.taken import incidence
from model.ranker import Ranker
from model.threads import one_blas_thread

Float32s = npt.NDArray[np.float32]


class IalsConfig(BaseModel):
    """The settings of `implicit.als.AlternatingLeastSquares`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factors: int = Field(128, ge=1, le=2048, description="length of a vector")
    regularization: float = Field(0.1, gt=0, le=1e4, description="λ")
    alpha: float = Field(10, gt=0, le=1e4, description="confidence of an interaction; of its absence it is 1")
    iterations: int = Field(15, ge=1, le=1000, description="rounds")


GRID = (
    IalsConfig(),
    IalsConfig(regularization=1),
    IalsConfig(regularization=10, alpha=1),
    IalsConfig(regularization=30, alpha=40),
    IalsConfig(factors=256, regularization=1),
    IalsConfig(factors=64, regularization=10),
)
SPACE: Mapping[str, Axis] = {
    "factors": Whole(32, 256, log=True),
    "regularization": Real(0.01, 100, log=True),
    "alpha": Real(1, 100, log=True),
    "iterations": Whole(5, 30),
}


class Ials:
    """Holds a fitted `implicit` model."""

    name = "ials"

    def __init__(self, model: Any, product_count: int) -> None:
        self.model = model
        self._product_count = product_count

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> Float32s:
        """Solve for each user's vector and return its products with the items' `[B, P]`."""
        had = incidence(histories, self._product_count)
        with one_blas_thread():
            users: Float32s = self.model.recalculate_user(np.arange(len(histories)), had)
        scores: Float32s = users @ self.model.item_factors.T
        return scores


def fit(data: FitData, config: IalsConfig) -> Ranker:
    """Let `implicit` alternate."""
    return popular_when_cold(train(data, config), data)


def train(data: FitData, config: IalsConfig) -> Ials:
    """Return what `implicit` made of who had what."""
    from implicit.cpu.als import AlternatingLeastSquares

    with one_blas_thread():
        model = AlternatingLeastSquares(**config.model_dump(), num_threads=data.threads, random_state=data.seed)
        model.fit(incidence(data.known, data.product_count), show_progress=False)
        model.YtY  # noqa: B018  # computed once here: it depends on the items alone
    return Ials(model, data.product_count)
