"""Learned neighbours: what is near, popular and of the user's kinds, weighed together by a small network.

    neighbours(u, p) = max(MLP(f(u, p)) − mean of the same over u's candidates, 0)    for these, which u has not had

f and the candidates are those of `model.discovery`. The MLP learns, by a softmax over each user's candidates, which of
them the user came to in windows of the past, each seen as it was then. What is near to a history says little of what
sells this week, and the other way round; the two don't add, which is why they go through a network. A softmax says
nothing of how candidates stand against other products: those below the mean are left to the rest of the score.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from kg.snapshot import Histories, Snapshot
from model.config import NeighbourConfig
from model.discovery import FEATURES, Moment, kinds_of, moment_of, pairs_of
from model.errors import ModelError
from model.neighbours import Neighbours, fit_neighbours
from model.popularity import DAY_MS

_HIDDEN = 32
_EPOCHS = 3
_BATCH = 64
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 1e-3
_QUESTIONS = 12_000
"""Users asked about, over all windows, at most: a thousand candidates each."""
_TOGETHER = 256


class PairScore(nn.Module):
    """A small network from the F features of a pair to how likely the user is to come to the product.

    The features' means and deviations, `[F]`, are kept with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.first = nn.Linear(FEATURES, _HIDDEN)
        self.second = nn.Linear(_HIDDEN, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores `[C]` for `features [C, F]`."""
        hidden = F.gelu(self.first((features - self.mean) / self.deviation))
        score: Tensor = self.out(F.gelu(self.second(hidden))).squeeze(-1)
        return score


@dataclass(frozen=True)
class LearnedNeighbours:
    """Learned neighbours of P products.

    Args:
        near: which products are near to which.
        moment: the catalogue, as of when it was made.
        score: what weighs the features; not trained any more.
    """

    near: Neighbours
    moment: Moment
    score: PairScore

    @torch.inference_mode()
    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> sparse.csr_matrix:
        """Return what neighbours add to each user's scores `[B, P]`, columns ascending within a user."""
        pairs = pairs_of(histories, now_ms, self.near.scores(histories, now_ms), self.moment)
        score = self.score(torch.from_numpy(pairs.features)).numpy()
        counts = np.diff(pairs.offsets)
        user = np.repeat(np.arange(len(histories)), counts)
        mean = np.bincount(user, score, len(histories)) / np.maximum(counts, 1)
        score = np.maximum(score - mean[user], 0).astype(np.float32)
        return sparse.csr_matrix((score, pairs.product_index, pairs.offsets), (len(histories), len(self.moment.kind)))

    def with_more(self, products: int) -> "LearnedNeighbours":
        """Return the same with further products, which are nobody's candidates yet."""
        return replace(self, near=self.near.with_more(products), moment=self.moment.with_more(products))

    def moved(self, place: npt.NDArray[np.int64], moment: Moment) -> "LearnedNeighbours":
        """Return the same over another catalogue.

        Args:
            place: `[P]` where each product stands there, -1 where it is no more.
            moment: the other catalogue.
        """
        return replace(self, near=self.near.moved(place, len(moment.kind)), moment=moment)


def fit_learned_neighbours(
    snapshot: Snapshot,
    histories: Histories,
    config: NeighbourConfig,
    exclude_relations: tuple[str, ...],
    on_window: Callable[[int, int], None],
) -> LearnedNeighbours:
    """Learn from windows of the past, and return what was learned over all of the histories.

    Args:
        snapshot: products and facts.
        histories: nothing later than what training sees.
        config: how near is meant, and how many windows are looked at.
        exclude_relations: facts that the model must not see.
        on_window: called with the window that has been read, and their number.

    Raises:
        ModelError: nobody came to anything new in any window.
    """
    kind = kinds_of(snapshot, exclude_relations)
    near = partial(_near, snapshot, config, exclude_relations)
    generator = np.random.default_rng(0)
    asked: list[_Asked] = []
    on_window(0, config.windows)
    windows = list(islice(_windows(histories, len(kind), config), config.windows))
    for number, window in enumerate(windows, 1):
        asked += _asked_in(window, histories, kind, config, near, generator)
        on_window(number, len(windows))
    if not asked:
        raise ModelError(
            f"nobody came to a new product in any window of {config.window_days:g} days with something before it, so "
            "that there is nothing to learn neighbours from",
            "Lower model.neighbours.window_days, set model.neighbours.kind to cosine, or load more interactions.",
        )
    end_ms = int(histories.at_ms.max(initial=0)) + 1
    return LearnedNeighbours(near(histories), moment_of(histories, end_ms, kind), _fit(asked, generator))


AnyNeighbours = Neighbours | LearnedNeighbours


@dataclass(frozen=True)
class _Asked:
    """One user in one window: the candidates' features `[C, F]`, and which of them came next `[C]`, at least one."""

    features: Tensor
    right: Tensor


def _near(
    snapshot: Snapshot, config: NeighbourConfig, exclude_relations: tuple[str, ...], histories: Histories
) -> Neighbours:
    found = fit_neighbours(snapshot, histories, config, exclude_relations)
    assert found is not None
    return found


@dataclass(frozen=True)
class _Window:
    """What came in a window of the past: its start, `user * P + product` of what was new to a user, and these users."""

    start_ms: int
    came: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]


def _windows(histories: Histories, product_count: int, config: NeighbourConfig) -> Iterator[_Window]:
    """Yield the windows in which somebody of whom something was known came to something new, the last one first.

    They are counted back from the last interaction. Others do not count: a gap in the data (or one late event) must
    not use them up.
    """
    step = round(config.window_days * DAY_MS)
    end = int(histories.at_ms.max(initial=0)) + 1
    user_of_row = histories.users_of_rows()
    keys = user_of_row * product_count + histories.product_index
    for back in np.unique((end - 1 - histories.at_ms) // step) + 1:
        start_ms = end - int(back) * step
        before = histories.at_ms < start_ms
        came = np.setdiff1d(keys[~before & (histories.at_ms < start_ms + step)], keys[before])
        known = np.bincount(user_of_row[before], minlength=len(histories)) > 0
        users = np.intersect1d(came // product_count, np.flatnonzero(known))
        if len(users):
            yield _Window(start_ms, came, users)


def _asked_in(
    window: _Window,
    histories: Histories,
    kind: npt.NDArray[np.int32],
    config: NeighbourConfig,
    near: Callable[[Histories], Neighbours],
    generator: np.random.Generator,
) -> Iterator[_Asked]:
    """Yield some of those who came to something new in a window."""
    product_count, start_ms = len(kind), window.start_ms
    count = min(len(window.users), _QUESTIONS // config.windows)
    who = np.sort(generator.choice(window.users, count, replace=False))
    known = histories.where(histories.at_ms < start_ms)
    neighbours, moment = near(known), moment_of(known, start_ms, kind)
    for at in range(0, len(who), _TOGETHER):
        some = who[at : at + _TOGETHER]
        theirs, now_ms = known.take(some), np.full(len(some), start_ms, np.int64)
        pairs = pairs_of(theirs, now_ms, neighbours.scores(theirs, now_ms), moment)
        right = np.isin(np.repeat(some, np.diff(pairs.offsets)) * product_count + pairs.product_index, window.came)
        for row in range(len(some)):
            candidates = slice(pairs.offsets[row], pairs.offsets[row + 1])
            if right[candidates].any():
                features = torch.from_numpy(pairs.features[candidates].copy())
                yield _Asked(features, torch.from_numpy(right[candidates].astype(np.float32)))


def _fit(asked: list[_Asked], generator: np.random.Generator) -> PairScore:
    """Learn to tell what came next from the other candidates of each user."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        score = PairScore()
    counts = torch.tensor([len(each.right) for each in asked], dtype=torch.float64)
    sums = torch.stack([each.features.double().sum(0) for each in asked]).sum(0)
    squares = torch.stack([each.features.double().square().sum(0) for each in asked]).sum(0)
    mean = sums / counts.sum()
    score.mean.copy_(mean)
    score.deviation.copy_((squares / counts.sum() - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3))
    optimizer = torch.optim.AdamW(score.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps = _EPOCHS * -(-len(asked) // _BATCH)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(_EPOCHS):
        order = generator.permutation(len(asked))
        for at in range(0, len(order), _BATCH):
            batch = [asked[place] for place in order[at : at + _BATCH]]
            scores = score(torch.cat([each.features for each in batch])).split([len(each.right) for each in batch])
            losses = [_loss(own, each.right) for own, each in zip(scores, batch, strict=True)]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]  # torch
            optimizer.step()
            scheduler.step()
    return score.requires_grad_(False)


def _loss(score: Tensor, right: Tensor) -> Tensor:
    """Return the softmax loss of one user's candidates, those that came next sharing a weight of 1."""
    return -(score.log_softmax(0) * right).sum() / right.sum()
