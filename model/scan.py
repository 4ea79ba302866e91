"""Largest inner products by a coarse scan in 4 bits and an exact refinement, both by faiss, off the interpreter.

    scan      codes [P, T / 2] bytes · users [B, R]     every product, by T tables of 16 values that stay in registers
    refine    matrix [P, D] · users [B, D], float32     the best of the scan, exactly

The codes are those of product quantisation (4-bit fast scan: André et al. 2017, arXiv:1704.07355). The scan sees a
rotation to R dimensions: the one that keeps most of the users' scores,

    u·Mᵀ = (L⁻¹u)·(M L)ᵀ,  L = E[u uᵀ]^½,  the first R eigenvectors of L Mᵀ M L on both sides,

the low-rank factorisation of least squared error over the users' distribution. The first of them have a table each;
the last ones, which matter less, share one by twos, as many as loses least of all for T tables: T <= R <= 2T. What is
refined is put in order here: faiss' own refinement (`IndexRefineFlat`) gives the same lists, 12 us later
of 460 candidates.

Inner products of given products (`inner_products`) add up in the order of the refinement: a product has one and the
same, whichever way it came into a list.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

_CODEBOOK_ROWS = 8192  # for 16 values of each table
_LOST_ALONE, _LOST_IN_PAIRS = 0.0115, 0.107
"""Of a dimension's variance, where 16 values are for one (Max 1960) or for two: by 4 for each they would lose .1175."""

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
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
        tables: T, of a coarse scan; D at most.
    """

    def __init__(self, matrix: Float32s, factors: Factors | None = None, tables: int = 0) -> None:
        # Making it takes a second; more threads would wait for each other at thousands of small steps.
        faiss.omp_set_num_threads(1)
        self._refined_by = None if factors is None else matrix
        if factors is None:
            self._index: Any = faiss.IndexFlatIP(matrix.shape[1])
            self._index.add(matrix)
        else:
            self._index = _coarse(matrix, factors, tables)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, users: Float32s, k: int, candidates: int) -> tuple[Int64s, Float32s]:
        """Return the k products of largest inner product with each user, best first, and that inner product.

        Args:
            users: `[B, D]`.
            k: how many; not more than there are products.
            candidates: how many of a coarse scan are refined to find them, at least k.

        Returns:
            Product indices and inner products, `[B, k]` both; -inf where there is none, as for a user who is nothing.
        """
        # OpenMP keeps the number for each calling thread.
        faiss.omp_set_num_threads(torch.get_num_threads())
        if self._refined_by is None:
            inner_product, product_index = self._index.search(users, k)
        else:
            _, product_index = self._index.search(users, candidates)  # in an order that is of no use
            inner_product = inner_products(self._refined_by, users, product_index)
        lacking = product_index < 0
        if lacking.any():
            inner_product[lacking], product_index[lacking] = -np.inf, 0
        return best_of(product_index, inner_product, k)


def best_of(product_index: Int64s, score: Float32s, k: int) -> tuple[Int64s, Float32s]:
    """Return the k best of each row, best first; equal scores in the order of the products."""
    # Whole numbers sort faster than an order is found: above, the bits of the score, the best the smallest; below, the
    # product. Those of a negative float32 ascend the other way round, and 0 is added for -0.0.
    key = (~_ascending((score + np.float32(0)).view(np.int32))).astype(np.int64) << 32
    key |= product_index
    key.sort(axis=1)
    key = key[:, :k]
    return key & 0xFFFFFFFF, _ascending((~(key >> 32)).astype(np.int32)).view(np.float32)


def _ascending(bits: Int32s) -> Int32s:
    """Return the bits of float32 as whole numbers of the same order; or these as the bits again."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


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


def _coarse(matrix: Float32s, factors: Factors, tables: int) -> Any:
    columns = _columns((matrix @ factors.products).var(axis=0), tables)
    users, products = (_side_by_side(each, columns) for each in (factors.users, factors.products))
    seen = matrix @ products
    scan = faiss.IndexPQFastScan(seen.shape[1], tables, 4, faiss.METRIC_INNER_PRODUCT)
    scan.train(seen[:: max(1, len(seen) // _CODEBOOK_ROWS)])
    scan.add(seen)
    rotation = faiss.LinearTransform(matrix.shape[1], seen.shape[1], False)
    faiss.copy_array_to_vector(users.T.ravel(), rotation.A)
    rotation.is_trained = True
    return faiss.IndexPreTransform(rotation, scan)


def _columns(spread: Float32s, tables: int) -> Int64s:
    """Return which dimensions each table has, one or two of them: `[T, 1]`, or `[T, 2]` with -1 for none.

    Args:
        spread: `[D]` the variance of the dimensions, falling.
        tables: T.
    """
    dimensions = len(spread)

    def lost(pairs: int) -> float:
        alone, seen = tables - pairs, tables + pairs
        in_pairs = 2 * np.sqrt(spread[alone:seen:2] * spread[alone + 1 : seen : 2])
        return float(_LOST_ALONE * spread[:alone].sum() + _LOST_IN_PAIRS * in_pairs.sum() + spread[seen:].sum())

    pairs = min(range(min(tables, dimensions - tables) + 1), key=lost)
    if not pairs:
        return np.arange(tables)[:, None]
    alone = np.arange(tables - pairs)
    together = np.arange(tables - pairs, tables + pairs).reshape(pairs, 2)
    return np.concatenate([np.stack([alone, np.full_like(alone, -1)], axis=1), together])


def _side_by_side(factor: Float32s, columns: Int64s) -> Float32s:
    """Return the columns of a factor in this order; of zeros where there is none."""
    chosen = factor[:, columns.ravel()]
    chosen[:, columns.ravel() < 0] = 0
    return np.ascontiguousarray(chosen)
