"""The trained model as everything that ranks uses it: a product matrix, and user vectors from histories.

    score(u, p) = w_g mean_m u_m·z_mp / τ + w_t Σ_j δ^age t_j·t_p + w_h repeat(u, p) + w_n neighbours(u, p)
                  + w_b popularity(p) + w_c newcomer(p)

The matrix has the z of each network m (one, or the members of an ensemble), the text features t (centred, reduced to
principal components, unit length), popularity, and whether training has met the product, side by side; temperature and
weights go into the user vectors. A newcomer borrows popularity and neighbours of its like (`model.borrowing`). What it
is given besides stands for the trained vector that it has not yet (`model.newcomers`), so it is given where there is a
history to rank by, and not to users of whom nothing is known.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from kg.snapshot import Histories
from model.borrowing import Loans, find_loans
from model.history import EncodeLast, recent_events
from model.learned_neighbours import AnyNeighbours
from model.network import RankingNetwork
from model.popularity import ProductStatistics
from model.repeat import ScoreRepeats, repeat_features
from model.scoring import GRAPH, NEWCOMER, POPULARITY, TEXT, Float32s, Int32s, Int64s, UserVectors


@dataclass(frozen=True)
class Blend:
    """The weight of each component of the score, chosen on validation data."""

    graph: float = 1.0
    text: float = 0.0
    history: float = 1.0
    popularity: float = 0.0
    neighbours: float = 0.0
    newcomer: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the weights by component."""
        return asdict(self)


@dataclass(frozen=True)
class TextKernel:
    """How text features become the text component: centre, turn to principal components, unit length.

    Shapes: `mean [W]`, `axes [W, K]`.
    """

    mean: Tensor
    axes: Tensor

    def __call__(self, text: Tensor) -> Tensor:
        """Return `[N, K]` for text features `[N, W]`."""
        return F.normalize((text - self.mean) @ self.axes, dim=1)


def fit_text_kernel(text: Tensor, width: int) -> TextKernel:
    """Fit the principal components of text features `[N, W]`; fewer than `width` where the features have fewer."""
    mean = text.mean(0)
    centred = (text - mean).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes.flip(1)[:, :width]
    # An eigenvector's sign is arbitrary: fixed, so that equal data give equal bytes.
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return TextKernel(mean, (axes * largest.sign()).float().contiguous())


class TrainedModel:
    """A `ScoringModel`.

    Args:
        networks: M history encoders and repeat scores of the same settings; not trained any more.
        products: `[P, M d]` unit vectors of the products, those of each network side by side.
        text: `[P, K]` text component of the products; K is 0 when there is none.
        statistics: of the P products.
        blend: component weights.
        neighbours: item-item weights of the P products; None without that component.

    Newcomers borrow (`model.borrowing`) once `with_loans` has said so: then `lends` is set, and `loans` says of whom,
    where there are newcomers.
    """

    def __init__(
        self,
        networks: Sequence[RankingNetwork],
        products: Tensor,
        text: Tensor,
        statistics: ProductStatistics,
        blend: Blend,
        neighbours: AnyNeighbours | None = None,
    ) -> None:
        self.networks = tuple(network.eval().requires_grad_(False) for network in networks)
        self.blend = blend
        self.neighbours = neighbours
        self.statistics = statistics
        self.lends = False
        self.loans: Loans | None = None
        self._encoders: Sequence[EncodeLast] = [network.history.last for network in self.networks]
        self._repeats: Sequence[ScoreRepeats] = [each.repeat for each in self.networks if each.repeat is not None]
        columns = {
            GRAPH: products,
            TEXT: text,
            POPULARITY: torch.from_numpy(statistics.popularity)[:, None],
            NEWCOMER: torch.from_numpy(statistics.newcomer)[:, None].float(),
        }
        self._matrix = torch.cat(list(columns.values()), dim=1).contiguous()
        ends = np.cumsum([part.shape[1] for part in columns.values()]).tolist()
        self._blocks = {
            name: slice(end - part.shape[1], end) for (name, part), end in zip(columns.items(), ends, strict=True)
        }

    @property
    def network(self) -> RankingNetwork:
        """The first network, whose settings are those of all."""
        return self.networks[0]

    def relation_weights(self) -> dict[str, float]:
        """Return how much each relation counts, averaged over the networks."""
        of_each = [network.relation_weights() for network in self.networks]
        return {name: sum(weights[name] for weights in of_each) / len(of_each) for name in of_each[0]}

    @property
    def matrix(self) -> Tensor:
        """The product matrix `[P, D]`."""
        return self._matrix

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Component name to its columns of `matrix`."""
        return self._blocks

    def with_blend(self, blend: Blend) -> "TrainedModel":
        """Return the same model with other component weights."""
        made = copy.copy(self)
        made.blend = blend
        return made

    def with_neighbours(self, neighbours: AnyNeighbours | None) -> "TrainedModel":
        """Return the same model with other neighbours."""
        made = copy.copy(self)
        made.neighbours = neighbours
        return made

    def with_loans(self, loans: Loans | None = None) -> "TrainedModel":
        """Return the same model whose newcomers borrow of their like what they have not yet.

        Args:
            loans: as they were found before; found here when None.
        """
        made = copy.copy(self)
        made.lends, made.loans = True, None
        newcomers = np.flatnonzero(self.statistics.newcomer)
        if len(newcomers):
            made._matrix = self._matrix.clone()
            made._borrow(newcomers, loans)
        return made

    def with_quicker(self, encoders: Sequence[EncodeLast], repeats: Sequence[ScoreRepeats]) -> "TrainedModel":
        """Return the same model with something quicker that says what its networks say of users, one for each.

        Args:
            encoders: for their history networks.
            repeats: for their repeat scores; none where they have none.
        """
        made = copy.copy(self)
        made._encoders, made._repeats = encoders, repeats
        return made

    def over(self, matrix: Tensor, anew: Int64s) -> "TrainedModel":
        """Return the same model over other products; further ones are ones that nobody has had.

        Args:
            matrix: `[P, D]` the product matrix, which is then the model's.
            anew: the products that are other than before, or new.
        """
        more = len(matrix) - len(self._matrix)
        made = copy.copy(self)
        made._matrix = matrix
        if more:
            made.statistics = self.statistics.with_more(more)
            made.neighbours = None if self.neighbours is None else self.neighbours.with_more(more)
        asked = np.sort(anew[made.statistics.newcomer[anew]])
        if self.lends and (more or len(asked)):
            made._borrow(asked, None)
        return made

    def near(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> sparse.csr_matrix | None:
        """Return what neighbours say of B users' products, of unit weight `[B, P]`; None without them.

        Columns ascend within a user.
        """
        if self.neighbours is None:
            return None
        near = self.neighbours.scores(histories, now_ms)
        return near if self.loans is None else self.loans.added_to(near, histories)

    def _borrow(self, asked: Int64s, made: Loans | None) -> None:
        """Let some newcomers borrow, ascending; the others do as before."""
        statistics = self.statistics
        known = np.flatnonzero(~statistics.newcomer)
        if not len(known):
            return
        if made is None:
            graph, text = (self._matrix[:, self._blocks[name]] for name in (GRAPH, TEXT))
            made = find_loans(graph, len(self.networks), text, statistics.popularity, known, asked)
        popularity = np.maximum(statistics.popularity[asked], made.of(statistics.popularity))
        self._matrix[torch.from_numpy(asked), self._blocks[POPULARITY]] = torch.from_numpy(popularity)[:, None]
        self.loans = made if self.loans is None else self.loans.with_others(made)

    @torch.inference_mode()
    def encode_users(
        self, histories: Histories, now_ms: npt.NDArray[np.int64], candidates: Int64s | None = None
    ) -> UserVectors:
        """Return the vectors of users given by their histories; see `ScoringModel`."""
        config, blend = self.network.config, self.blend
        events = recent_events(histories, config.history_length)
        rows = F.embedding(events.product, self._matrix)  # [B, L, D]
        of_each = rows[..., self._blocks[GRAPH]].chunk(len(self.networks), dim=-1)
        users = [encode(products, events) for encode, products in zip(self._encoders, of_each, strict=True)]
        back = events.length[:, None] - 1 - torch.arange(events.product.shape[1])  # [B, L]
        decay = torch.where(back >= 0, config.text_decay ** back.clamp(min=0), 0.0)
        kernel = (decay[:, None, :] @ rows[..., self._blocks[TEXT]])[:, 0]
        vectors = torch.cat(
            [
                torch.cat(users, dim=1) * (blend.graph / config.temperature / len(users)),
                kernel * blend.text,
                torch.full((len(histories), 1), blend.popularity),
                (events.length[:, None] > 0) * blend.newcomer,
            ],
            dim=1,
        )
        return UserVectors(vectors, *self._added(histories, now_ms, candidates))

    def _added(
        self, histories: Histories, now_ms: npt.NDArray[np.int64], candidates: Int64s | None
    ) -> tuple[Int64s, Int32s, Float32s, Float32s]:
        """Return the sparse part of `UserVectors`: repeats and neighbours, one entry for each product of a user."""
        offsets, product_index = np.zeros(len(histories) + 1, np.int64), np.empty(0, np.int32)
        score = np.empty(0, np.float32)
        if self._repeats and (candidates is None or np.isin(candidates, histories.product_index).any()):
            repeats = repeat_features(histories, now_ms, self.network.config.repeat_half_lives_days, self.statistics)
            features = torch.from_numpy(repeats.features)
            scores = [score_of(features) for score_of in self._repeats]
            score = (torch.stack(scores).mean(0) * self.blend.history).numpy()
            offsets, product_index = repeats.offsets, repeats.product_index
        near = self.near(histories, now_ms) if self.blend.neighbours else None
        if near is None:
            return offsets, product_index, score, score
        near = near * np.float32(self.blend.neighbours)
        if not len(score):
            return near.indptr.astype(np.int64), near.indices, near.data, np.zeros_like(near.data)
        repeated = sparse.csr_matrix((score, product_index, offsets), (len(histories), len(self._matrix)))
        # Zeros of the other kind make both have every product of either.
        history, near = _with_pattern(repeated, near), _with_pattern(near, repeated)
        return near.indptr.astype(np.int64), near.indices, history.data + near.data, history.data


def _with_pattern(values: sparse.csr_matrix, other: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return `values`, with zeros stored where only `other` has entries; columns ascending within a row."""
    rows = [np.repeat(np.arange(each.shape[0]), np.diff(each.indptr)) for each in (values, other)]
    data = np.concatenate([values.data, np.zeros_like(other.data)])
    columns = np.concatenate([values.indices, other.indices])
    together = sparse.coo_matrix((data, (np.concatenate(rows), columns)), values.shape).tocsr()
    together.sort_indices()
    return together
