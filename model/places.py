"""How many products score above another one: int8 tells for most of them, float32 for those that are close to call.

    s(p) = u·p                                           [P, D] in float32, 52 MB of 100,000 products
    ŝ(p) = û·p̂                                           codes in int8, each dimension with a scale σ of its own
    |s − ŝ| ≤ |u σ| |(p − p̂) / σ| + |(u − û) σ| |p̂ / σ|  the largest of all products: e

What is counted depends on the order alone, so a product whose ŝ is further than e from the score is counted by its
codes. Reading every product is what takes the time, and codes are a quarter of the bytes. It pays for what is
recommended, near which few products score; for a product in the middle of all it takes as long as float32.
"""

import copy
import math

import numpy as np
import numpy.typing as npt
import torch

from model.scan import inner_products

_INT8 = 127
_ROUNDING = 2e-6  # of float32, relative to the lengths that are multiplied
_LEAST = 1e-12

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


class Places:
    """The products of a model, ready to be counted.

    Args:
        matrix: `[P, D]`.
    """

    def __init__(self, matrix: Float32s) -> None:
        self._matrix = matrix
        self._scale = np.maximum(np.abs(matrix).max(0, initial=0) / _INT8, _LEAST).astype(np.float32)
        codes, self._length, _ = self._coded(matrix)
        self._codes = codes
        self._beside = np.empty(0, np.int64)

    def following(self, matrix: Float32s, other: Int64s) -> "Places":
        """Return the same of a changed catalogue, at the price of what has changed.

        Args:
            matrix: `[P', D]`, P' at least P.
            other: products that are new or have another vector.
        """
        made = copy.copy(self)
        made._matrix = matrix
        made._codes = np.pad(self._codes, ((0, len(matrix) - len(self._matrix)), (0, 0)))
        made._codes[other], length, beyond = self._coded(matrix[other])
        made._length = max(self._length, length)
        made._beside = np.union1d(np.setdiff1d(self._beside, other), other[beyond])
        return made

    def place(
        self, product_index: int, vector: Float32s, added_index: Int32s, added_score: Float32s, gone: Int64s
    ) -> int:
        """Return a product's place among all for a user, from 1; equal scores stand in the order of the products.

        Args:
            product_index: the product.
            vector: `[D]` of the user.
            added_index: `[A]` products whose scores have something added to their inner products, each once.
            added_score: `[A]` what.
            gone: products that don't count.
        """
        added = added_score[added_index == product_index].sum()
        (inner_product,) = self._scores(np.array([product_index]), vector)
        score = float(inner_product + added)
        apart = np.append(gone, product_index)
        counted = ~np.isin(added_index, apart)
        with_added = added_index[counted]
        scores = self._scores(with_added, vector) + added_score[counted]
        before = ahead(with_added, scores, score, product_index)
        return before + self.above(vector, score, np.append(apart, added_index), product_index) + 1

    def above(self, vector: Float32s, score: float, apart: Int64s, before: int = 0) -> int:
        """Return how many products have an inner product above a score.

        Args:
            vector: `[D]` of the user.
            score: the one.
            apart: products that don't count.
            before: the products below this index count with an equal score, too.
        """
        scaled = (vector * self._scale).astype(np.float64)
        unit = max(float(np.abs(scaled).max(initial=0)) / _INT8, _LEAST)
        codes = np.round(scaled / unit)
        length = float(np.linalg.norm(scaled))
        error = length * math.sqrt(len(vector)) / 2  # a code is half a unit away at most
        error += (float(np.linalg.norm(scaled - unit * codes)) + _ROUNDING * length) * self._length
        asked = torch.from_numpy(codes.astype(np.int8))[None]
        scanned = torch._int_mm(asked, torch.from_numpy(self._codes).T).numpy()[0]
        lowest = np.iinfo(np.int32).min
        scanned[apart] = scanned[self._beside] = lowest
        surely = math.floor(min((score + error) / unit, -float(lowest)))
        hardly = math.ceil(max((score - error) / unit, lowest + 1))
        maybe = np.flatnonzero(scanned >= hardly)
        maybe = maybe[scanned[maybe] <= surely]
        close = np.concatenate([maybe, np.setdiff1d(self._beside, apart)])
        return int(np.count_nonzero(scanned > surely)) + ahead(close, self._scores(close, vector), score, before)

    def _scores(self, product_index: npt.NDArray[np.integer], vector: Float32s) -> Float32s:
        """Return inner products, each summed up in the same order: equal vectors have equal ones, however many."""
        scores: Float32s = inner_products(self._matrix, vector[None], product_index[None])[0]
        return scores

    def _coded(self, matrix: Float32s) -> tuple[npt.NDArray[np.int8], float, npt.NDArray[np.bool_]]:
        """Return the codes `[P, D]` of products, the length of the longest, and which are beyond the scales `[P]`."""
        scaled = matrix / self._scale
        beyond = (np.abs(scaled) > _INT8 + 0.5).any(1)
        codes = np.clip(np.round(scaled), -_INT8, _INT8)
        return codes.astype(np.int8), float(np.linalg.norm(codes, axis=1).max(initial=0)), beyond


def ahead(product_index: npt.NDArray[np.integer], scores: Float32s, score: float, before: int) -> int:
    """Return how many products stand ahead of a score; of those that equal it, the ones below an index."""
    return int(np.count_nonzero((scores > score) | ((scores == score) & (product_index < before))))
