"""Prometheus metrics of a server: calls, batches, answers, and what is looked up at each scrape."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import grpc
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.question import UserState

_log = structlog.get_logger(__name__)

_CALL_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.04, 0.08, 0.1, 0.2, 0.5, 1, 2, 5, 30)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_ALWAYS_TOLD = (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


class Metrics:
    """The metrics of one server. Counting is safe from any thread.

    Metric names start with `kgrank_`; no label has an id of a user, product or caller, so that their number is bounded.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._calls = Counter("kgrank_calls", "Calls that have ended.", ["method", "code"], registry=self.registry)
        self._seconds = Histogram(
            "kgrank_call_seconds",
            "Time from a call's request to its answer, of calls without streams.",
            ["method"],
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self._over_rate = Counter(
            "kgrank_calls_over_rate",
            "Calls refused since their caller has called too often; RESOURCE_EXHAUSTED among kgrank_calls, too.",
            ["method"],
            registry=self.registry,
        )
        self._events = Counter(
            "kgrank_events_written",
            "Events stored, by the model of the answer that led to them (none: no answer did; other: not in service).",
            ["model_version", "type"],
            registry=self.registry,
        )
        self._given = Counter(
            "kgrank_answers_given", "Rankings, by the model that made them.", ["model_version"], registry=self.registry
        )
        self._messages = Counter(
            "kgrank_stream_messages", "Requests that came in streams.", ["method"], registry=self.registry
        )
        self._outcomes = Counter(
            "kgrank_stream_outcomes",
            "Requests in streams, by what a call of its own would have ended in; the stream's ends in OK.",
            ["method", "code"],
            registry=self.registry,
        )
        self._batches = Histogram(
            "kgrank_batch_size", "Requests scored together.", buckets=_BATCH_SIZES, registry=self.registry
        )
        self._answers = Counter(
            "kgrank_answers", "Rankings, by how the user was known.", ["user_state"], registry=self.registry
        )

        self._lost_searches = Counter(
            "kgrank_searches_not_stored",
            "Searches that were answered and not stored: the graph is too far behind (behind), or the disk (failed).",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("behind", "failed"):  # there from the start: a counter that begins at 1 shows no rise
            self._lost_searches.labels(reason)
        self._kept = Counter(
            "kgrank_kept_answers",
            "Questions whose answer was given again (hit), worked out (miss), or depends on the moment (passed).",
            ["outcome"],
            registry=self.registry,
        )

    def method(self, name: str, *, outcomes: bool = False) -> "MethodMetrics":
        """Return what counts the calls of a method, by its full name.

        Args:
            name: of the method.
            outcomes: whether requests of its streams end each in its own way.
        """
        return MethodMetrics(
            lambda code: self._calls.labels(name, code),
            self._seconds.labels(name),
            self._messages.labels(name),
            self._over_rate.labels(name),
            (lambda code: self._outcomes.labels(name, code)) if outcomes else None,
        )

    def answer_given(self, model_version: str) -> None:
        """Count an answer of a model."""
        self._given.labels(model_version).inc()

    def event_written(self, model_version: str, kind: str) -> None:
        """Count an event that was stored."""
        self._events.labels(model_version, kind).inc()

    def search_lost(self, reason: str) -> None:
        """Count a search that was answered and not stored."""
        self._lost_searches.labels(reason).inc()

    def batch(self, size: int) -> None:
        """Count a batch of requests that were scored together."""
        self._batches.observe(size)

    def answers(self, user_state: str, count: int) -> None:
        """Count rankings for users who were known in one way."""
        self._answers.labels(user_state).inc(count)

    def kept_answer(self, outcome: str, state: UserState | None) -> None:
        """Count a question by what was done for it, and an answer that was given again as a ranking."""
        self._kept.labels(outcome).inc()
        if state is not None:
            self.answers(state.value, 1)


class MethodMetrics:
    """Counts the calls of one method."""

    def __init__(
        self,
        calls: Callable[[str], Counter],
        seconds: Histogram,
        messages: Counter,
        over_rate: Counter,
        outcomes: Callable[[str], Counter] | None,
    ) -> None:
        self._make, self._seconds, self._messages, self._over_rate = calls, seconds, messages, over_rate
        # There from the start: a counter that begins at 1 shows no rise, and alerts on these would miss the first.
        self._calls = {code: calls(code.name) for code in _ALWAYS_TOLD}
        self._make_outcome = outcomes
        self._outcomes = {} if outcomes is None else {code: outcomes(code.name) for code in _ALWAYS_TOLD}

    def ended(self, code: grpc.StatusCode, seconds: float | None) -> None:
        """Count a call that has ended; `seconds` is None for streams, which last as long as their callers want."""
        counter = self._calls.get(code)
        if counter is None:
            counter = self._calls[code] = self._make(code.name)
        counter.inc()
        if seconds is not None:
            self._seconds.observe(seconds)

    def outcome(self, code: grpc.StatusCode) -> None:
        """Count what became of a request of a stream, where the method has outcomes."""
        counter = self._outcomes.get(code)
        if counter is None and self._make_outcome is not None:
            counter = self._outcomes[code] = self._make_outcome(code.name)
        if counter is not None:
            counter.inc()

    def over_rate(self) -> None:
        """Count a call whose caller has called too often."""
        self._over_rate.inc()

    def message(self) -> None:
        """Count a request of a stream."""
        self._messages.inc()


class Gauges(Collector):
    """Metrics that are looked up when they are scraped; what can't be is left out, and the others are told.

    Args:
        readers: each yields name, help, and values by label; a value that isn't known is left out.
    """

    def __init__(self, readers: Sequence["Reader"]) -> None:
        self._readers = readers
        self._failing: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry need not look anything up when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Look the values up."""
        for reader in self._readers:
            name = reader.__name__.lstrip("_")
            try:
                yield from (_family(*reading) for reading in reader())
            except Exception:
                if name not in self._failing:  # a scrape comes every few seconds
                    self._failing.add(name)
                    _log.exception("gauges_not_read", gauges=name)
            else:
                self._failing.discard(name)


def _family(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(f"kgrank_{name}", text, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


Reading = tuple[str, str, str, dict[str, float]]
"""Name, help, label (empty for none), values by the label's value (by "" without a label)."""


class Reader(Protocol):
    """A function that looks some values up."""

    __name__: str

    def __call__(self) -> Iterable[Reading]:
        """Yield them."""
