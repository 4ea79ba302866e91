"""Products by meaning: the query's BERT features against the products', by cosine.

A query goes through the artifact's own text encoder and the same projection as the products' texts (`TextKernel`), so
that the inner product of both is the cosine of the text component. The scan is in int8, over every product; the best of
it are scored in float32.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.scorer import TextKernel
from server.search.reader import Reader

KEPT_QUERIES = 20_000

_CANDIDATES = 4  # of the scan, for each one kept
_INT8 = 127.0
_MANY = 5

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class QueryEncoder:
    """Turns queries into vectors of the text component, and keeps the last ones. Safe to share between threads.

    Args:
        reader: of the model's text encoder.
        kernel: the model's projection of text features.
    """

    def __init__(self, reader: Reader, kernel: TextKernel) -> None:
        self._reader = reader
        self._kernel = kernel
        self._kept: OrderedDict[str, Float32s] = OrderedDict()
        self._keeping = threading.Lock()

    def encode(self, queries: Sequence[str]) -> Float32s:
        """Return unit vectors of queries `[B, K]`."""
        with self._keeping:
            found = {query: self._kept[query] for query in queries if query in self._kept}
        fresh = list(dict.fromkeys(query for query in queries if query not in found))
        if fresh:
            features = torch.from_numpy(self._reader.encode(fresh))
            found |= zip(fresh, self._kernel(features).numpy(), strict=True)
        with self._keeping:
            for query in queries:
                self._kept[query] = found[query]
                self._kept.move_to_end(query)
            while len(self._kept) > KEPT_QUERIES:
                self._kept.popitem(last=False)
        return np.stack([found[query] for query in queries])


class MeaningIndex:
    """The text component of a catalogue, ready to be scanned.

    Args:
        matrix: `[P, D]` the model's products.
        columns: those of the text component, unit length in each row.
    """

    def __init__(self, matrix: Tensor, columns: slice) -> None:
        self._columns = columns
        self._vectors = matrix[:, columns]
        self._scale = max(float(self._vectors.abs().max()) / _INT8, 1e-12)
        self._codes = self._coded(self._vectors).T

    def following(self, matrix: Tensor) -> "MeaningIndex":
        """Return the index of a changed catalogue of which the first products are these, a few of them otherwise."""
        made, known = copy.copy(self), len(self._vectors)
        made._vectors = matrix[:, self._columns]
        other = (made._vectors[:known] != self._vectors).any(dim=1).nonzero()[:, 0]
        codes = torch.cat([self._codes.T, self._coded(made._vectors[known:])])
        codes[other] = self._coded(made._vectors[other])
        made._codes = codes.T
        return made

    def _coded(self, vectors: Tensor) -> Tensor:
        return (vectors / self._scale).round().clamp(-_INT8, _INT8).to(torch.int8)

    def find(self, vector: Float32s, k: int, allowed: Bools | None = None) -> tuple[Int64s, Float32s]:
        """Return the k products nearest to a query, and their cosines, best first.

        Args:
            vector: `[K]` of the query.
            k: how many.
            allowed: `[P]` which products may be found; None: all.
        """
        query = torch.from_numpy(vector)
        count = len(self._vectors) if allowed is None else int(allowed.sum())
        depth = min(_CANDIDATES * k, count)
        if depth < count:
            codes = (query * (_INT8 / query.abs().max().clamp_min(1e-12))).round().to(torch.int8)
            units = torch._int_mm(codes[None], self._codes)[0]
            if allowed is not None:
                units.masked_fill_(torch.from_numpy(~allowed), torch.iinfo(torch.int32).min)
            candidates = units.topk(depth, sorted=False).indices
        else:
            candidates = torch.arange(count) if allowed is None else torch.from_numpy(np.flatnonzero(allowed))
        cosine, order = self._cosines(query, candidates).topk(min(k, len(candidates)))
        return candidates[order].numpy(), cosine.numpy()

    def cosine(self, vector: Float32s, product_index: Int64s) -> Float32s:
        """Return the cosines of a query and some products."""
        cosines: Float32s = self._cosines(torch.from_numpy(vector), torch.from_numpy(product_index)).numpy()
        return cosines

    def _cosines(self, query: Tensor, products: Tensor) -> Tensor:
        if _MANY * len(products) < len(self._vectors):
            return self._vectors[products] @ query
        return (self._vectors @ query)[products]  # the rows of many, gathered, take longer than all of them
