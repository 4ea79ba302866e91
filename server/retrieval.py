"""The best k products of the whole catalogue for a batch of users: a coarse scan in int8, then exact scores.

    scan     codes [P, R] int8 · users [B, R] int8     every product, a matrix product of small integers
    select   maxima of blocks of 64 products           the k best products lie in the k best blocks
    re-rank  matrix [P, D] · users [B, D], float32     some hundred candidates, exact

Where D is large, the scan sees a rotation to R < D dimensions: the one that keeps most of the users' scores,

    u·Mᵀ = (L⁻¹u)·(M L)ᵀ,  L = E[u uᵀ]^½,  the first R eigenvectors of L Mᵀ M L on both sides,

the low-rank factorisation of least squared error over the users' distribution. R and the number of candidates are not
guessed: `ProductIndex.build` takes the cheapest plan whose recall on held-out users reaches `RECALL`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.scoring import UserVectors

BLOCK = 64
RECALL = 0.997
"""Of the true best of held-out users; the budget is .99."""

JUDGED_AT = (10, 100)
_INT8 = 127.0
_LOWEST = torch.iinfo(torch.int32).min

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """How coarse the scan is: its dimensions, and the candidates that are re-ranked for k results."""

    dimensions: int
    oversampling: int

    def candidates(self, k: int) -> int:
        """Return how many candidates are scored exactly to find k."""
        return self.oversampling * (4 * k + 12)


@dataclass(frozen=True)
class Found:
    """The best products of a batch: `product_index [B, K]` and `score [B, K]`, best first, -inf where there is none."""

    product_index: Int64s
    score: Float32s


class ProductIndex:
    """The catalogue, ready to be searched.

    Args:
        matrix: `[P, D]` float32, the products.
        projection: `[D, R]` float32, users to the scan's space.
        codes: `[P', R]` int8, the products in that space, P' a multiple of `BLOCK`.
        scale: what one unit of a code stands for.
        plan: how coarse the scan is.
    """

    def __init__(self, matrix: Tensor, projection: Tensor, codes: Tensor, scale: float, plan: Plan) -> None:
        self.matrix = matrix
        self.plan = plan
        self._projection = projection
        # The product of a row-major batch with this view is the layout that the int8 kernels take without a copy.
        self._codes = codes.T
        self._scale = scale

    def __len__(self) -> int:
        return len(self.matrix)

    @classmethod
    @torch.inference_mode()
    def build(cls, matrix: Tensor, sample: UserVectors) -> "ProductIndex":
        """Choose the cheapest plan that finds the true best of held-out users, few and many of them.

        Args:
            matrix: `[P, D]` float32.
            sample: vectors of users like those to come; half shape the rotation, half judge it.
        """
        matrix = matrix.contiguous()
        vectors = sample.vectors
        judged = _rows(sample, len(sample) // 2, len(sample))
        truth = _exact(matrix, judged, max(JUDGED_AT))
        left, right = _factors(matrix, vectors[: max(1, len(sample) // 2)])
        tried = None
        for plan in _plans(matrix.shape[1]):
            if tried is None or tried.plan.dimensions != plan.dimensions:
                codes, scale = _quantise(matrix @ right[:, : plan.dimensions])
                tried = cls(matrix, left[:, : plan.dimensions].contiguous(), codes, scale, plan)
            else:
                tried = cls(matrix, tried._projection, tried._codes.T, tried._scale, plan)
            if all(_recall(truth[:, :k], tried.search(judged, [], k).product_index) >= RECALL for k in JUDGED_AT):
                break
        assert tried is not None
        return tried

    @torch.inference_mode()
    def search(self, users: UserVectors, excluded: list[Int64s], k: int) -> Found:
        """Return the k best products of each user.

        Args:
            users: B user vectors, with what is added to their scores.
            excluded: the product indices that each user may not get `[B][X]`; an empty list excludes nothing.
            k: results for each; fewer than that exist in small catalogues.
        """
        count, batch = len(self), len(users)
        added_row = np.repeat(np.arange(batch), np.diff(users.added_offsets))
        added_index = users.added_product_index.astype(np.int64)
        scores = self._scan(users, added_row, added_index)
        if any(map(len, excluded)):
            row = np.repeat(np.arange(batch), [len(each) for each in excluded])
            scores[torch.from_numpy(row), torch.from_numpy(np.concatenate(excluded))] = _LOWEST
        candidates, coarse = _select(scores, min(self.plan.candidates(k), count))
        products = torch.where(candidates < count, candidates, 0)
        rows = F.embedding(products, self.matrix)  # [B, C, D]
        exact = torch.bmm(rows, users.vectors[:, :, None])[:, :, 0]
        exact += torch.from_numpy(added(users, products.numpy(), count, users.added_score))
        exact.masked_fill_(coarse == _LOWEST, -torch.inf)
        best = exact.topk(min(k, exact.shape[1]), dim=1)
        return Found(products.gather(1, best.indices).numpy(), best.values.numpy())

    def _scan(self, users: UserVectors, added_row: Int64s, added_index: Int64s) -> Tensor:
        """Return approximate scores `[B, P']` int32, in units of each user's own scale; padding is `_LOWEST`."""
        projected = users.vectors @ self._projection
        step = projected.abs().amax(1, keepdim=True).clamp_min(1e-12) / _INT8
        scores = torch._int_mm((projected / step).round().to(torch.int8), self._codes)
        scores[:, len(self) :] = _LOWEST
        if len(added_row):
            unit = (step[:, 0].numpy() * self._scale).astype(np.float64)
            gains = np.clip(users.added_score / unit[added_row], -(2**30), 2**30).round().astype(np.int32)
            where = (torch.from_numpy(added_row), torch.from_numpy(added_index))
            scores.index_put_(where, torch.from_numpy(gains), accumulate=True)
        return scores


def added(users: UserVectors, product_index: Int64s, product_count: int, values: Float32s) -> Float32s:
    """Return what is added to the scores of `product_index [B, K]`: `[B, K]`, 0 for products that gain nothing.

    Args:
        users: B users.
        product_index: the products asked about.
        product_count: P.
        values: `[R]` of the users' sparse entries: their whole `added_score`, or a share of it.
    """
    if not len(values):
        return np.zeros(product_index.shape, np.float32)
    # Ascending: products ascend within a user.
    row = np.repeat(np.arange(len(users)), np.diff(users.added_offsets))
    keys = row * product_count + users.added_product_index
    wanted = np.arange(len(users))[:, None] * product_count + product_index
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], np.float32(0))


def _select(scores: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Return the best candidates of each row `[B, C]` and their approximate scores, unordered."""
    batch, padded = scores.shape
    blocked = scores.view(batch, padded // BLOCK, BLOCK)
    # As many blocks as candidates would be exact; the best are seldom alone, and the worst candidates seldom matter.
    needed = min(candidates // 2 + 1, blocked.shape[1])
    best_blocks = blocked.amax(2).topk(needed, dim=1, sorted=False).indices
    inside = blocked.gather(1, best_blocks[:, :, None].expand(-1, -1, BLOCK)).view(batch, -1)
    best = inside.topk(min(candidates, inside.shape[1]), dim=1, sorted=False)
    return best_blocks.gather(1, best.indices // BLOCK) * BLOCK + best.indices % BLOCK, best.values


def _plans(dimensions: int) -> list[Plan]:
    """Return the plans to try, cheapest first."""
    ranks = [rank for rank in (64, 96, 128, 192, 256) if rank < dimensions * 0.8] + [dimensions]
    return [Plan(rank, oversampling) for rank in ranks for oversampling in (1, 2, 4)]


def _factors(matrix: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of users and of products `[D, D]` to the scan's space, the directions that matter most first."""
    dimensions = matrix.shape[1]
    second = (vectors.T @ vectors).double() / len(vectors)
    # A little of everything: a direction that no sampled user has may still matter to one.
    second += torch.eye(dimensions, dtype=torch.float64) * (0.02 * second.trace() / dimensions + 1e-9)
    values, basis = torch.linalg.eigh(second)
    root = basis * values.sqrt() @ basis.T
    inverse = basis / values.sqrt() @ basis.T
    gram = (matrix.T @ matrix).double()
    axes = torch.linalg.eigh(root @ gram @ root)[1].flip(1)
    left, right = inverse @ axes, root @ axes
    # Any share of a column's scale may stand on either side; equal root mean squares lose least to rounding.
    products = (right.T @ gram @ right).diagonal().clamp_min(1e-20).sqrt()
    users = (left.T @ second @ left).diagonal().clamp_min(1e-20).sqrt()
    balance = (users / products).sqrt()
    return (left / balance).float(), (right * balance).float()


def _quantise(rotated: Tensor) -> tuple[Tensor, float]:
    """Return `[P', R]` int8 codes, rows padded to whole blocks with zeros, and the value of one unit."""
    count, rank = rotated.shape
    # One column of rare outliers must not take the range of all others; the re-rank forgives a clipped value.
    largest = max(float(rotated.abs().flatten()[:: max(1, rotated.numel() // 1_000_000)].quantile(0.99999)), 1e-12)
    scale = largest / _INT8
    codes = torch.zeros(-(-count // BLOCK) * BLOCK, rank, dtype=torch.int8)
    codes[:count] = (rotated / scale).round().clamp(-_INT8, _INT8).to(torch.int8)
    return codes, scale


def _exact(matrix: Tensor, users: UserVectors, k: int) -> Int64s:
    """Return the true top k of each user `[B, k]`, by scoring everything."""
    scores = users.vectors @ matrix.T
    row = torch.from_numpy(np.repeat(np.arange(len(users)), np.diff(users.added_offsets)))
    column = torch.from_numpy(users.added_product_index.astype(np.int64))
    scores.index_put_((row, column), torch.from_numpy(users.added_score), accumulate=True)
    return scores.topk(min(k, len(matrix)), dim=1).indices.numpy()


def _recall(truth: Int64s, found: Int64s) -> float:
    hits = (truth[:, :, None] == found[:, None, :]).any(2)
    return float(hits.mean()) if hits.size else 1.0


def _rows(users: UserVectors, start: int, stop: int) -> UserVectors:
    first, last = int(users.added_offsets[start]), int(users.added_offsets[stop])
    return UserVectors(
        users.vectors[start:stop],
        users.added_offsets[start : stop + 1] - first,
        users.added_product_index[first:last],
        users.added_score[first:last],
        users.added_history[first:last],
    )
