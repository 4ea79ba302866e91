"""Training batches: what is known, and which products come next.

Two objectives share one form. `next_item` asks for each of the last `model.history_length` interactions of a history
from those before it. For shops where much is bought at once, `next_basket` asks at a moment for all products of the
window that follows, of users seen just as serving would see them then; things bought together never see each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kg.snapshot import Histories
from model.config import ModelConfig, TrainConfig
from model.errors import ModelError
from model.history import RecentEvents, recent_events
from model.negatives import Negatives
from model.popularity import DAY_MS, ProductStatistics, product_statistics
from model.repeat import Repeats, repeat_features
from model.workers import Workers


@dataclass(frozen=True)
class Batch:
    """One training step's questions.

    Args:
        events: what the network reads of B users.
        every_step: ask after each interaction instead of only after the last.
        question_step: `[Q]` places of the questions in the flattened `[B * L]` (or `[B]`) user vectors.
        target_question: `[T]` which question each target answers.
        target_product: `[T]` the right products.
        target_share: `[T]` the targets of one question share a weight of 1.
        popularity: `[P]` of the products at that moment, None where it is not learned with the network.
        repeats: the users' earlier products, None where they are not learned with the network.
        negatives: products that stand for the catalogue, None where the whole of it is scored.
    """

    events: RecentEvents
    every_step: bool
    question_step: Tensor
    target_question: Tensor
    target_product: Tensor
    target_share: Tensor
    popularity: Tensor | None = None
    repeats: Repeats | None = None
    negatives: Negatives | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return replace(
            self,
            events=self.events.to(device),
            **{name: getattr(self, name).to(device) for name in _TENSORS},
            popularity=None if self.popularity is None else self.popularity.to(device),
            negatives=None if self.negatives is None else self.negatives.to(device),
        )


_TENSORS = ("question_step", "target_question", "target_product", "target_share")


def batches(
    histories: Histories,
    product_count: int,
    model: ModelConfig,
    train: TrainConfig,
    generator: np.random.Generator,
    workers: Workers | None = None,
) -> Iterator[Batch]:
    """Yield one epoch of batches in random order.

    Args:
        histories: what is trained on.
        product_count: P.
        model: how much of a history is read.
        train: the objective and the size of a batch.
        generator: in the same state in every process.
        workers: the processes that share each batch; this one's part may be empty.
    """
    workers = workers or Workers()
    if train.objective == "next_item":
        yield from _next_item(histories, model, train, generator, workers)
    else:
        yield from _next_basket(histories, product_count, model, train, generator, workers)


def count_batches(histories: Histories, train: TrainConfig) -> int:
    """Return about how many batches an epoch has, for progress."""
    if train.objective == "next_item":
        return -(-int((np.diff(histories.offsets) > 1).sum()) // train.batch_users)
    return sum(-(-len(users) // train.batch_users) for _, users in _windows(histories, train))


def nothing_to_learn(train: TrainConfig) -> ModelError:
    """Return what to say where an epoch has no batch."""
    if train.objective == "next_item":
        return ModelError("no user has two interactions to learn from", "Load more interactions.")
    return ModelError(
        f"no user has something both before and within a window of {train.window_days:g} days to learn from",
        "Lower train.window_days, or load more interactions.",
    )


def _next_item(
    histories: Histories, model: ModelConfig, train: TrainConfig, generator: np.random.Generator, workers: Workers
) -> Iterator[Batch]:
    users = generator.permutation(np.flatnonzero(np.diff(histories.offsets) > 1))
    for start in range(0, len(users), train.batch_users):
        chosen = histories.take(workers.share(users[start : start + train.batch_users]))
        whole = recent_events(chosen, model.history_length + 1)
        length = whole.length - 1
        events = RecentEvents(whole.product[:, :-1], whole.type[:, :-1], whole.day[:, :-1], length)
        asked = torch.arange(events.product.shape[1]) < length[:, None]  # [B, L]
        targets = whole.product[:, 1:][asked]
        yield Batch(
            events=events,
            every_step=True,
            question_step=asked.flatten().nonzero().squeeze(1),
            target_question=torch.arange(len(targets)),
            target_product=targets,
            target_share=torch.ones(len(targets)),
        )


def _next_basket(
    histories: Histories,
    product_count: int,
    model: ModelConfig,
    train: TrainConfig,
    generator: np.random.Generator,
    workers: Workers,
) -> Iterator[Batch]:
    windows = _windows(histories, train)
    plan = []
    statistics: dict[int, ProductStatistics] = {}
    for window, (_, users) in enumerate(windows):
        shuffled = generator.permutation(users)
        plan += [(window, shuffled[at : at + train.batch_users]) for at in range(0, len(users), train.batch_users)]
    for choice in generator.permutation(len(plan)):
        window, users = plan[choice][0], workers.share(plan[choice][1])
        start_ms = windows[window][0]
        chosen = histories.take(users)
        known = chosen.where(chosen.at_ms < start_ms)
        future = chosen.where((chosen.at_ms >= start_ms) & (chosen.at_ms < start_ms + _window_ms(train)))
        pairs = np.unique(future.users_of_rows() * product_count + future.product_index)
        question, product = np.divmod(pairs, product_count)
        counts = np.bincount(question, minlength=len(users))
        if window not in statistics:
            before = histories.where(histories.at_ms < start_ms)
            half_life = model.popularity_half_life_days
            statistics[window] = product_statistics(before, start_ms, half_life, product_count)
        now_ms = np.full(len(users), start_ms, np.int64)
        yield Batch(
            events=recent_events(known, model.history_length),
            every_step=False,
            question_step=torch.arange(len(users)),
            target_question=torch.from_numpy(question),
            target_product=torch.from_numpy(product),
            target_share=torch.from_numpy((1 / counts[question]).astype(np.float32)),
            popularity=torch.from_numpy(statistics[window].popularity),
            repeats=repeat_features(known, now_ms, model.repeat_half_lives_days, statistics[window])
            if model.repeat
            else None,
        )


def _window_ms(train: TrainConfig) -> int:
    return round(train.window_days * DAY_MS)


def _windows(histories: Histories, train: TrainConfig) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Return the start of each window, and the users who have something before it and something in it.

    Windows without an interaction do not count: a gap in the data (or one late event) must not use them up.
    """
    users = histories.users_of_rows()
    end = int(histories.at_ms.max(initial=0)) + 1
    step = _window_ms(train)
    found: list[tuple[int, npt.NDArray[np.int64]]] = []
    for back in np.unique((end - 1 - histories.at_ms) // step) + 1:
        if len(found) == train.windows:
            break
        start = end - int(back) * step
        before = np.bincount(users[histories.at_ms < start], minlength=len(histories)) > 0
        inside = (histories.at_ms >= start) & (histories.at_ms < start + step)
        present = np.flatnonzero(before & (np.bincount(users[inside], minlength=len(histories)) > 0))
        if len(present):
            found.append((start, present))
    return found
