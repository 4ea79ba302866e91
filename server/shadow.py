"""A model that scores along, unseen: how its answers would have differed from those that were served.

For each answer the shadow makes its own list, and scores the served products:

    overlap             |served ∩ shadow's| / |served|, its list as long as the served one
    rank correlation    Spearman's ρ between the served order and the shadow's order of the same products
    score difference    mean of the shadow's score less the served one, over the served products

Nobody waits for it: an answer is compared after it was sent, in a thread of its own, only while no question waits for
the scoring thread. What can't be compared in time is counted and dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import structlog
from scipy.stats import spearmanr

from server.engine import Engine
from server.question import Question, Ranking
from server.threads import computing_threads

_log = structlog.get_logger(__name__)

_MOST_WAITING = 64
_TOGETHER = 4
_LOOK_AGAIN_S = 0.005
_LOGGED_EVERY = 1000

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How a shadow has differed: sums over `answers`, of which `skipped` were not compared; correlations over those
    answers that have an order, two products or more."""

    answers: int = 0
    skipped: int = 0
    overlap: float = 0.0
    ordered: int = 0
    rank_correlation: float = 0.0
    score_difference: float = 0.0
    latency_ms: float = 0.0

    def means(self) -> dict[str, float]:
        """Return the means by name; 0 where there is nothing."""
        compared = max(1, self.answers)
        return {
            "overlap": self.overlap / compared,
            "rank_correlation": self.rank_correlation / max(1, self.ordered),
            "score_difference": self.score_difference / compared,
            "latency_ms": self.latency_ms / compared,
        }


class Shadow:
    """Compares an engine with what is served. Its methods belong to the event loop's thread.

    Args:
        engine: the shadow's; nobody else may ask it.
        busy: whether questions wait for the scoring thread.
    """

    def __init__(self, engine: Engine, busy: Callable[[], bool], so_far: Comparison | None = None) -> None:
        self.engine = engine
        self.comparison = so_far or Comparison()
        self._busy = busy
        self._waiting: deque[tuple[Engine, Question, Ranking]] = deque()
        self._thread = computing_threads(1, "shadow")
        self._running: asyncio.Task[None] | None = None

    def observe(self, engine: Engine, question: Question, served: Ranking) -> None:
        """Take note of a served answer; it is compared later, or skipped."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            self.comparison = replace(self.comparison, skipped=self.comparison.skipped + 1)
        self._waiting.append((engine, question, served))
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Drop what waits, and end what is being compared: from then on the engine may serve."""
        self._waiting.clear()
        if self._running is not None:
            await self._running
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if self._busy():
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    continue
                taken = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
                before = self.comparison.answers
                found = await loop.run_in_executor(self._thread, _compare, self.engine, taken)
                self.comparison = _sum(self.comparison, found)
                if before // _LOGGED_EVERY != self.comparison.answers // _LOGGED_EVERY:
                    self.log()
        except Exception:
            _log.exception("shadow_failed", model_version=self.engine.model_version)
        finally:
            self._running = None

    def log(self) -> None:
        """Log how the shadow has differed so far."""
        told = {name: round(value, 4) for name, value in self.comparison.means().items()}
        version, sums = self.engine.model_version, self.comparison
        _log.info("shadow_compared", model_version=version, answers=sums.answers, skipped=sums.skipped, **told)


def _compare(shadow: Engine, answers: Sequence[tuple[Engine, Question, Ranking]]) -> Comparison:
    """Return the comparison of some answers."""
    total = Comparison()
    for engine, question, served in answers:
        if not len(served.product_index):
            continue
        served_ids = [engine.product_ids[index] for index in served.product_index.tolist()]
        began = time.perf_counter()
        own = shadow.answer([replace(question, k=len(served_ids), lean=None)])[0]
        latency_ms = (time.perf_counter() - began) * 1000
        own_ids = {shadow.product_ids[index] for index in own.product_index.tolist()}
        asked = replace(question, k=None, lean=None, exclude_seen=False, exclude=(), candidates=tuple(served_ids))
        was, would = _both_scores(served_ids, served, shadow, shadow.answer([asked])[0])
        ordered = len(would) > 1 and bool(np.ptp(would) > 0)
        total = _sum(
            total,
            Comparison(
                answers=1,
                overlap=len(own_ids.intersection(served_ids)) / len(served_ids),
                ordered=int(ordered),
                rank_correlation=float(spearmanr(-np.arange(len(would)), would).statistic) if ordered else 0.0,
                score_difference=float((would - was).mean()) if len(would) else 0.0,
                latency_ms=latency_ms,
            ),
        )
    return total


def _both_scores(served_ids: list[str], served: Ranking, shadow: Engine, judged: Ranking) -> tuple[Float64s, Float64s]:
    """Return the served and the shadow's scores of the products that both know, in the served order."""
    judged_ids = (shadow.product_ids[index] for index in judged.product_index.tolist())
    would = dict(zip(judged_ids, judged.score.tolist(), strict=True))
    known = [rank for rank, product_id in enumerate(served_ids) if product_id in would]
    return served.score[known].astype(np.float64), np.array([would[served_ids[rank]] for rank in known], np.float64)


def _sum(first: Comparison, second: Comparison) -> Comparison:
    return Comparison(*(getattr(first, name) + getattr(second, name) for name in Comparison.__dataclass_fields__))
