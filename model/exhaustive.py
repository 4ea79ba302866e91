"""The best k of all products for many users, exactly: a scan in int8, exact scores, and a proof for each user.

    scan      codes [P, D] int8 · users [B, D] int8     every product, a matrix product of small integers
    select    maxima of 4, 16, 64, ... products         the C best lie in the C best groups, level by level
    re-rank   matrix [P, D] · users [B, D], float32     C candidates, exact

With p̂ and û for what the codes stand for, an inner product is off by at most

    |u·p − û·p̂| ≤ |u| |p − p̂| + |u − û| |p̂| =: e.

No product outside the C candidates scans higher than the last of them, s_C. So if the k-th best exact score is at least
s_C + e, the k best are proven; for the few users for whom it is not, every product is scored in float32.
"""

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.metrics import PADDING
from model.ranker import top_k
from model.retrieval import Found, added
from model.scoring import ScoringModel, UserVectors, full_scores

_GROUP = 4
_DEEPER = 4  # times as many candidates for users whose best are not proven
_BLOCK_BYTES = 32 * 2**20
_MOST_TOGETHER = 128
_INT8 = 127.0
_LOWEST = -(2**31)
_LARGEST = 2**29  # of what is added, in units of the scan: it stands out, and no sum of it overflows

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Some products of some users of a batch: `row [X]` and `product_index [X]`."""

    row: Int64s
    product_index: Int64s

    def of(self, rows: Int64s, count: int) -> "Pairs":
        """Return the pairs of some of `count` rows, ascending, each row by its place among them."""
        place = np.full(count, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.row] >= 0
        return Pairs(place[self.row[kept]], self.product_index[kept])


@dataclass(frozen=True)
class _Scan:
    """What a scan says of B users: `units [B, P']` int32, `_LOWEST` for what is left out, and, `[B]` both, what a unit
    stands for and the largest error; with room for the maxima of groups, `[B, P' / 4]`, `[B, P' / 16]`, ...
    """

    units: Tensor
    unit: Tensor
    error: Tensor
    room: list[Tensor]

    def take(self, rows: Int64s) -> "_Scan":
        """Return that of some users."""
        places = torch.from_numpy(rows)
        room = [level[: len(rows)] for level in self.room]
        return _Scan(self.units[places], self.unit[places], self.error[places], room)


class ExhaustiveSearch:
    """All products of a model, ready to be scanned.

    Args:
        model: its products.
        k: how many are found for each user.
    """

    def __init__(self, model: ScoringModel, k: int) -> None:
        self._model = model
        self._matrix = model.matrix.contiguous()
        self._k = min(k, len(self._matrix))
        self._candidates = 5 * self._k // 2 + 40
        self._depth, groups = 0, len(self._matrix)
        while groups > _GROUP * self._candidates:
            self._depth, groups = self._depth + 1, -(-groups // _GROUP)
        self._scale = max(float(self._matrix.abs().max()) / _INT8, 1e-12)
        codes = (self._matrix / self._scale).round()
        self._length = float(torch.linalg.vector_norm(codes, dim=1).max()) * self._scale
        self._error = float(torch.linalg.vector_norm(self._matrix - codes * self._scale, dim=1).max())
        codes = F.pad(codes, (0, 0, 0, -len(codes) % _GROUP**self._depth))
        # The product of a row-major block with this view is the layout that the int8 kernels take without a copy.
        self._codes = codes.to(torch.int8).T
        self._together = max(1, min(_MOST_TOGETHER, _BLOCK_BYTES // (4 * len(codes))))
        self._threads = torch.get_num_threads()
        self._rooms: queue.LifoQueue[list[Tensor]] = queue.LifoQueue()  # those that are in memory already first
        for _ in range(self._threads):
            widths = [len(codes) // _GROUP**level for level in range(self._depth + 1)]
            self._rooms.put([_huge_pages(self._together, width) for width in widths])

    def search(self, users: UserVectors, excluded: Pairs | None = None) -> Found:
        """Return the k best products of each user, equal scores in the order of their product index.

        Of those that tie for the last places, any are among them.

        Args:
            users: B users.
            excluded: products that a user may not get.

        Returns:
            `[B, K]`; product index `PADDING` and score -inf where fewer are left.
        """
        excluded = excluded or Pairs(np.empty(0, np.int64), np.empty(0, np.int64))

        together = max(1, min(self._together, -(-len(users) // self._threads)))

        def block(start: int) -> Found:
            rows = np.arange(start, min(start + together, len(users)))
            return self._block(users.take(rows), excluded.of(rows, len(users)))

        # Each thread has blocks of its own: two that share one wait for each other at every step.
        with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            parts = list(threads.map(block, range(0, len(users), together)))
        torch.set_num_threads(self._threads)  # what threads that begin later take
        return Found(
            np.concatenate([each.product_index for each in parts]), np.concatenate([each.score for each in parts])
        )

    @torch.inference_mode()
    def _block(self, users: UserVectors, excluded: Pairs) -> Found:
        if not self._depth:
            return self._by_all_scores(users, excluded)
        room = self._rooms.get()
        try:
            return self._scanned(users, excluded, [level[: len(users)] for level in room])
        finally:
            self._rooms.put(room)

    def _scanned(self, users: UserVectors, excluded: Pairs, room: list[Tensor]) -> Found:
        scan = self._scan(users, excluded, room)
        found, proven = self._rank(users, scan, self._candidates)
        rest = np.flatnonzero(~proven)
        if len(rest):
            deeper, proven = self._rank(users.take(rest), scan.take(rest), _DEEPER * self._candidates)
            found.product_index[rest], found.score[rest] = deeper.product_index, deeper.score
            rest = rest[~proven]
        if len(rest):
            right = self._by_all_scores(users.take(rest), excluded.of(rest, len(users)))
            found.product_index[rest], found.score[rest] = right.product_index, right.score
        return found

    def _rank(self, users: UserVectors, scan: "_Scan", candidates: int) -> tuple[Found, npt.NDArray[np.bool_]]:
        """Rank the candidates that scan highest; also return for which users `[B]` their best are proven."""
        product_index, units = self._select(scan, candidates)
        score = self._exact(users, product_index).masked_fill_(units == _LOWEST, -torch.inf)
        best = score.topk(self._k, dim=1)
        found = _in_order(product_index.gather(1, best.indices).numpy(), best.values.numpy())
        last = units.amin(1)
        could_be = torch.where(last == _LOWEST, -torch.inf, last * scan.unit + scan.error).numpy()
        # A last candidate that was cut off for its size says nothing of the others.
        return found, (found.score[:, -1] >= could_be) & (last.numpy() < _LARGEST // 2)

    def _scan(self, users: UserVectors, excluded: Pairs, room: list[Tensor]) -> "_Scan":
        vectors, count = users.vectors, len(self._matrix)
        scale = vectors.abs().amax(1, keepdim=True).clamp_min(1e-12) / _INT8
        codes = (vectors / scale).round()
        scanned = torch._int_mm(codes.to(torch.int8), self._codes, out=room[0])
        unit = scale[:, 0] * self._scale
        error = vectors.norm(dim=1) * self._error + (vectors - codes * scale).norm(dim=1) * self._length
        row = np.repeat(np.arange(len(users)), np.diff(users.added_offsets))
        if len(row):
            steps = users.added_score / unit.numpy()[row]
            place = (torch.from_numpy(row), torch.from_numpy(users.added_product_index.astype(np.int64)))
            rounded = np.clip(steps, -_LARGEST, _LARGEST).round().astype(np.int32)
            scanned.index_put_(place, torch.from_numpy(rounded), accumulate=True)
            error += 0.5 * unit
        scanned[torch.from_numpy(excluded.row), torch.from_numpy(excluded.product_index)] = _LOWEST
        scanned[:, count:] = _LOWEST
        return _Scan(scanned, unit, error, room[1:])

    def _select(self, scan: _Scan, candidates: int) -> tuple[Tensor, Tensor]:
        """Return the products that scan highest, in no order, and what the scan says of them, `[B, C]` both.

        They are found in the groups that scan highest, level by level.
        """
        levels, count = [scan.units], len(scan.units)
        for maxima in scan.room:
            if levels[-1].shape[1] <= _GROUP * candidates:
                break
            first, *others = levels[-1].view(count, _GROUP, -1).unbind(1)
            for other in others:
                first = torch.maximum(first, other, out=maxima)
            levels.append(maxima)
        candidates = min(candidates, levels[-1].shape[1])
        place = _highest(levels[-1], candidates)
        units = levels[-1].gather(1, place)
        for level in reversed(levels[:-1]):
            member = torch.arange(0, level.shape[1], level.shape[1] // _GROUP)
            members = (place[:, None, :] + member[:, None]).view(count, -1)
            said = level.gather(1, members)
            best = _highest(said, candidates)
            place, units = members.gather(1, best), said.gather(1, best)
        return place.clamp_max_(len(self._matrix) - 1), units  # a filled place is left out anyway

    def _exact(self, users: UserVectors, product_index: Tensor) -> Tensor:
        """Return the scores `[B, C]` of some products."""
        # Unlike a gathered copy of the rows, this reads each of them once.
        score = torch.empty(product_index.shape)
        vectors, index = users.vectors.contiguous(), product_index.contiguous()
        pointers = [faiss.swig_ptr(each.numpy()) for each in (score, vectors, self._matrix, index)]
        # Threads of its own would go on turning, for a while, in the way of torch's.
        faiss.omp_set_num_threads(1)
        inner_products = faiss.fvec_inner_products_by_idx  # type: ignore[attr-defined]  # stubs leave it out
        inner_products(*pointers, self._matrix.shape[1], *product_index.shape)
        if len(users.added_score):
            score += torch.from_numpy(added(users, product_index.numpy(), len(self._matrix))[0])
        return score

    def _by_all_scores(self, users: UserVectors, excluded: Pairs) -> Found:
        scores: Float32s = full_scores(self._model, users).numpy()
        scores[excluded.row, excluded.product_index] = -np.inf
        product_index, score = top_k(scores, self._k)
        return Found(product_index.astype(np.int64), score)


def _huge_pages(rows: int, width: int) -> Tensor:
    """Return an int32 array to write into, again and again: fresh memory costs as much as the scan itself.

    It comes from numpy, which asks for huge pages where torch does not: what is read here and there from pages of 4 KiB
    misses the table of pages nearly every time.
    """
    return torch.from_numpy(np.empty((rows, width), np.int32))


def _highest(values: Tensor, count: int) -> Tensor:
    """Return where the `count` highest of each row stand, in no order; a third of the time that `topk` takes."""
    width = values.shape[1]
    return torch.from_numpy(np.argpartition(values.numpy(), width - count, axis=1)[:, width - count :])


def _in_order(product_index: Int64s, score: Float32s) -> Found:
    """Return products that are sorted by score with equal scores in the order of their product index."""
    tied = np.flatnonzero((score[:, 1:] == score[:, :-1]).any(1))
    if len(tied):
        order = np.lexsort((product_index[tied], -score[tied]), axis=1)
        product_index[tied] = np.take_along_axis(product_index[tied], order, 1)
    return Found(np.where(np.isneginf(score), PADDING, product_index), score)
