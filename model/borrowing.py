"""What a newcomer borrows of the products most like it: the popularity and the neighbours that it has not yet.

    popularity(p) = max(popularity(p), Σ_q w_pq popularity(q))                  q: the K known products most like p
    neighbours(u, p) = max(neighbours(u, p), Σ_q w_pq neighbours(u, q))
    w_pq = softmax_q(s_pq / τ),   s_pq = (z_p·z_q + t_p·t_q) / 2                vectors of the graph and of the text

What nobody has had yet is described, and so is what people had: so what is said of a product by those who had its like
is the best guess of what will be said of it (Schein et al. 2002 for the problem; the guess is a nearest-neighbour
regression). Newcomers are those of `model.newcomers`, which gives them a constant on top.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from kg.snapshot import Histories
from model.neighbours import strongest

_LENDERS = 10
_SHARPNESS = 0.05
_MOST_LENDING = 50_000
"""Known products at most that lend, the most popular ones: all pairs of a million would take hours."""
_MOST_BORROWED = 1000
"""Newcomers at most that borrow for one user, those that borrow most: what is added to a user's scores is kept."""
_TOGETHER = 256

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Loans:
    """Of which of P products N newcomers borrow, and how much.

    Shapes: `newcomer [N]` ascending, `lender [N, K]` product indices, `weight [N, K]`, each row adding up to 1.
    """

    newcomer: Int64s
    lender: Int32s
    weight: Float32s
    product_count: int

    def of(self, values: Float32s) -> Float32s:
        """Return what each newcomer borrows `[N]` of values of products `[P]`."""
        borrowed: Float32s = (values[self.lender] * self.weight).sum(axis=1)
        return borrowed

    def added_to(self, near: sparse.csr_matrix, histories: Histories) -> sparse.csr_matrix:
        """Return what neighbours say of B users' products with what newcomers borrow of it `[B, P]`, columns ascending.

        Args:
            near: `[B, P]` at least 0.
            histories: of the B users; nothing is borrowed for a product that the user has had.
        """
        lent = (near @ self._spread).tocsc().tocsr()  # there and back: columns ascending, in half the time of sorting
        if not lent.nnz:
            return near
        if np.diff(lent.indptr).max() > _MOST_BORROWED:
            lent = strongest(lent, _MOST_BORROWED)
        columns = self.newcomer.astype(near.indices.dtype)[lent.indices]
        borrowed = sparse.csr_matrix((lent.data, columns, lent.indptr), near.shape)
        had = self._borrows[histories.product_index]
        if had.any():
            pairs = histories.users_of_rows()[had] * np.int64(self.product_count) + histories.product_index[had]
            users = np.repeat(np.arange(near.shape[0]), np.diff(borrowed.indptr))
            borrowed.data[np.isin(users * np.int64(self.product_count) + borrowed.indices, pairs)] = 0
        return near.maximum(borrowed).tocsr()

    def with_others(self, others: "Loans") -> "Loans":
        """Return these and others over more products, which replace those of the same newcomers."""
        stays = ~np.isin(self.newcomer, others.newcomer)
        newcomer = np.concatenate([self.newcomer[stays], others.newcomer])
        order = np.argsort(newcomer)
        lender = np.concatenate([self.lender[stays], others.lender])[order]
        weight = np.concatenate([self.weight[stays], others.weight])[order]
        return Loans(newcomer[order], lender, weight, others.product_count)

    @cached_property
    def _borrows(self) -> npt.NDArray[np.bool_]:
        """Whether each product borrows `[P]`."""
        borrows = np.zeros(self.product_count, np.bool_)
        borrows[self.newcomer] = True
        return borrows

    @cached_property
    def _spread(self) -> sparse.csr_matrix:
        """How much each product lends to each newcomer `[P, N]`."""
        place = np.repeat(np.arange(len(self.newcomer)), self.lender.shape[1])
        entries = (self.weight.ravel(), (self.lender.ravel(), place))
        return sparse.csr_matrix(entries, (self.product_count, len(self.newcomer)))


@torch.inference_mode()
def find_loans(graph: Tensor, networks: int, text: Tensor, popularity: Float32s, known: Int64s, asked: Int64s) -> Loans:
    """Return of which known products some newcomers borrow.

    Args:
        graph: `[P, M d]` unit vectors of the products by M networks, side by side.
        networks: M.
        text: `[P, T]` unit vectors of their texts; T may be 0.
        popularity: `[P]`.
        known: `[Q]` the products that are no newcomers, at least one.
        asked: `[N]` newcomers, ascending.
    """
    if len(known) > _MOST_LENDING:
        known = np.sort(known[np.argsort(-popularity[known], kind="stable")[:_MOST_LENDING]])
    parts = 1 + (text.shape[1] > 0)

    def described(products: Int64s) -> Tensor:
        rows = torch.from_numpy(products)
        vectors: Tensor = torch.cat([graph[rows] * networks**-0.5, text[rows]], dim=1) * parts**-0.5
        return vectors

    lenders, kept = described(known), min(_LENDERS, len(known))
    lender, weight = np.empty((len(asked), kept), np.int32), np.empty((len(asked), kept), np.float32)
    for start in range(0, len(asked), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        alike, place = (described(asked[some]) @ lenders.T).topk(kept, dim=1)
        lender[some] = known[place.numpy()]
        weight[some] = (alike / _SHARPNESS).softmax(1).numpy()
    return Loans(asked, lender, weight, len(graph))
