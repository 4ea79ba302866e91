"""Largest inner products by a coarse scan in 4 bits and an exact refinement: one call of faiss, off the interpreter.

    scan      codes [P, R / 2] bytes · users [B, R]     every product, by tables of 16 values that stay in registers
    refine    matrix [P, D] · users [B, D], float32     the best of the scan, exactly

The codes are those of product quantisation with one dimension each (4-bit fast scan: André et al. 2017,
arXiv:1704.07355). Where D is large, the scan sees a rotation to R < D dimensions: the one that keeps most of the users'
scores,

    u·Mᵀ = (L⁻¹u)·(M L)ᵀ,  L = E[u uᵀ]^½,  the first R eigenvectors of L Mᵀ M L on both sides,

the low-rank factorisation of least squared error over the users' distribution.

Inner products of given products (`inner_products`) add up in the order of the refinement: a product has one and the
same, whichever way it came into a list.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

_CODEBOOK_ROWS = 8192  # for 16 values in one dimension each

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """A factorisation of the scores `u·Mᵀ`, the directions that matter most first.

    Shapes: `users [D, D]` and `products [D, D]`; their first R columns are the best of rank R.
    """

    users: Float32s
    products: Float32s


def factorise(matrix: Float32s, users: Float32s) -> Factors:
    """Return the factorisation for products `matrix [P, D]` and users like `users [N, D]`."""
    dimensions = matrix.shape[1]
    second: Float64s = (users.T @ users).astype(np.float64) / len(users)
    # A little of everything: a direction that no sampled user has may still matter to one.
    second += np.eye(dimensions) * (0.02 * second.trace() / dimensions + 1e-9)
    values, basis = np.linalg.eigh(second)
    root, inverse = basis * np.sqrt(values) @ basis.T, basis / np.sqrt(values) @ basis.T
    gram = (matrix.T @ matrix).astype(np.float64)
    axes = np.linalg.eigh(root @ gram @ root)[1][:, ::-1]
    return Factors((inverse @ axes).astype(np.float32), (root @ axes).astype(np.float32))


class Scan:
    """Finds the products of largest inner product; belongs to one thread at a time.

    Args:
        matrix: `[P, D]` the products.
        factors: what a coarse scan sees of them; None: everything, in float32.
        dimensions: R, of a coarse scan.
    """

    def __init__(self, matrix: Float32s, factors: Factors | None = None, dimensions: int = 0) -> None:
        # Making it takes a second; more threads would wait for each other at thousands of small steps.
        faiss.omp_set_num_threads(1)
        self._refine: Any = None
        if factors is None:
            self._index: Any = faiss.IndexFlatIP(matrix.shape[1])
            self._index.add(matrix)
        else:
            self._index = self._refine = _coarse(matrix, factors, dimensions)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, users: Float32s, k: int, candidates: int) -> tuple[Int64s, Float32s]:
        """Return the k products of largest inner product with each user, best first, and that inner product.

        Args:
            users: `[B, D]`.
            k: how many; not more than there are products.
            candidates: how many of a coarse scan are refined to find them, at least k.

        Returns:
            Product indices and inner products, `[B, k]` both.
        """
        # OpenMP keeps the number for each calling thread.
        faiss.omp_set_num_threads(torch.get_num_threads())
        if self._refine is not None:
            self._refine.k_factor = candidates / k
        inner_product, product_index = self._index.search(users, k)
        return product_index, inner_product


def inner_products(matrix: Float32s, users: Float32s, product_index: npt.NDArray[np.integer]) -> Float32s:
    """Return the inner products of each user with products of its own, without a copy of their vectors.

    Args:
        matrix: `[P, D]` the products.
        users: `[B, D]`.
        product_index: `[B, K]` of each user's products; -1: none, whose inner product is -inf.

    Returns:
        `[B, K]`.
    """
    faiss.omp_set_num_threads(torch.get_num_threads())
    users, matrix = (np.ascontiguousarray(each, np.float32) for each in (users, matrix))
    product_index = np.ascontiguousarray(product_index, np.int64)
    found = np.empty(product_index.shape, np.float32)
    places = [faiss.swig_ptr(each) for each in (found, users, matrix, product_index)]
    faiss.fvec_inner_products_by_idx(*places, matrix.shape[1], *product_index.shape)  # type: ignore[attr-defined]  # SWIG's
    return found


def _coarse(matrix: Float32s, factors: Factors, dimensions: int) -> Any:
    seen = np.ascontiguousarray(matrix @ factors.products[:, :dimensions])
    scan = faiss.IndexPQFastScan(dimensions, dimensions, 4, faiss.METRIC_INNER_PRODUCT)
    scan.train(seen[:: max(1, len(seen) // _CODEBOOK_ROWS)])
    scan.add(seen)
    rotation = faiss.LinearTransform(matrix.shape[1], dimensions, False)
    faiss.copy_array_to_vector(factors.users[:, :dimensions].T.ravel(), rotation.A)
    rotation.is_trained = True
    return faiss.IndexRefineFlat(faiss.IndexPreTransform(rotation, scan), faiss.swig_ptr(matrix))
