"""How the answers of a model in service look: how much of the catalogue they show, how far scores are from training's.

Drift is the population stability index between the best scores of users drawn from the snapshot and those of the latest
warm users: the sum over ten bins of (live - reference) * ln(live / reference). Below 0.1 nothing has changed, above
0.25 much has, as bankers say, who use it so (Siddiqi, Credit Risk Scorecards, 2006). Only questions without filter,
mix, query or context count, of users who have searched for nothing lately, and none while a rule boosts or buries:
those have other products first than training has.
"""

from collections.abc import Collection, Sequence
from dataclasses import fields
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from model.scoring import GRAPH, HISTORY, NEIGHBOURS, NEWCOMER, POPULARITY, TEXT
from server.engine import Engine
from server.question import Question, Ranking, UserState
from server.rulebook import Effect
from server.watch.metrics import Metrics

_REFERENCE_USERS = 320
_TOGETHER = 16
_LATEST = 2000
_LEAST = 200
_BINS = 10
_ROTATED_AFTER = 50_000
_MODELS = 8
_LEARNED = (GRAPH, TEXT, HISTORY, NEIGHBOURS, POPULARITY, NEWCOMER)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Drift:
    """The best scores of a model's users, at training and now.

    Args:
        engine: of the model; histories are those of its snapshot.
    """

    def __init__(self, engine: Engine) -> None:
        self.model_version = engine.model_version
        users = engine.snapshot.users
        lengths = np.diff(engine.snapshot.histories.offsets)
        known = np.flatnonzero(lengths)
        drawn = np.random.default_rng(0).choice(known, min(_REFERENCE_USERS, len(known)), replace=False)
        self._unasked = users.ids(drawn)
        self._reference: list[float] = []
        self._latest = np.full(_LATEST, np.nan)
        self._seen = 0

    def learn(self, engine: Engine, effect: Effect) -> None:
        """Ask the model for a few more users of the reference; in the thread that the engine belongs to."""
        if self._unasked and effect.lift is None:
            asked, self._unasked = self._unasked[:_TOGETHER], self._unasked[_TOGETHER:]
            rankings = engine.answer([Question(user_id=user_id, k=1) for user_id in asked])
            self._reference += [_best(ranking, effect) for ranking in rankings if len(ranking.score)]

    def see(self, ranking: Ranking, effect: Effect) -> None:
        """Take in the answer to a plain question, if the best product of the whole catalogue is in it for certain."""
        if effect.lift is None and len(ranking.score) > len(effect.pins):
            self._latest[self._seen % _LATEST] = _best(ranking, effect)
            self._seen += 1

    @property
    def index(self) -> float | None:
        """The population stability index; None before enough users have been seen."""
        if self._unasked or len(self._reference) < _BINS or self._seen < _LEAST:
            return None
        return stability_index(np.array(self._reference), self._latest[: self._seen])


def stability_index(reference: Floats, live: Floats) -> float:
    """Return the population stability index of two samples, in bins that hold as much of the first each."""
    edges = np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1])
    expected, found = (
        np.bincount(np.searchsorted(edges, sample), minlength=_BINS) / len(sample) for sample in (reference, live)
    )
    # An empty bin would make it infinite: half an observation stands in for none.
    expected = np.maximum(expected, 0.5 / len(reference))
    found = np.maximum(found, 0.5 / len(live))
    return float(((found - expected) * np.log(found / expected)).sum())


class Coverage:
    """Which products were in answers lately: in the present window of answers, or in the one before.

    Args:
        window: answers of a window.
    """

    def __init__(self, window: int = _ROTATED_AFTER) -> None:
        self._window = window
        self._now: Bools = np.zeros(0, np.bool_)
        self._before: Bools = np.zeros(0, np.bool_)
        self._answers = 0

    def see(self, ranking: Ranking, products: int) -> None:
        """Take in an answer from a catalogue of so many products."""
        if products > len(self._now):  # products join at the end
            self._now = np.concatenate([self._now, np.zeros(products - len(self._now), np.bool_)])
        self._now[ranking.product_index] = True
        self._answers += 1
        if self._answers >= self._window:
            self._before, self._now, self._answers = self._now, np.zeros(products, np.bool_), 0

    @property
    def share(self) -> float | None:
        """The share of the catalogue that was in answers; None before a window is full: it has yet to grow."""
        now, before = self._now, self._before
        if not len(before):
            return None
        shown = now.copy()
        common = min(len(now), len(before))
        shown[:common] |= before[:common]
        return float(shown.mean())


class AnswerWatch:
    """Looks at every batch of answers, in the thread that scores it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._coverage = Coverage()
        self._drifts: dict[str, Drift] = {}

    def __call__(self, items: Sequence[tuple[Engine, Question]], rankings: Sequence[Ranking]) -> None:
        """Take in a batch."""
        self._metrics.batch(len(items))
        states: dict[UserState, int] = {}
        # Not of given candidates: those tell nothing of drift, and are answered where calls should not wait for this.
        engines = {id(engine): engine for engine, question in items if question.candidates is None}
        effects = {key: engine.selection.effect() for key, engine in engines.items()}
        for (engine, question), ranking in zip(items, rankings, strict=True):
            states[ranking.state] = states.get(ranking.state, 0) + 1
            if question.candidates is None and len(ranking.score):
                self._coverage.see(ranking, len(engine.product_ids))
                if ranking.state is UserState.WARM and _is_plain(question, engine):
                    self._drift(engine).see(ranking, effects[id(engine)])
        for state, count in states.items():
            self._metrics.answers(state.value, count)
        for key, engine in engines.items():
            self._drift(engine).learn(engine, effects[key])

    @property
    def coverage(self) -> float | None:
        """The share of the catalogue that was in answers lately; None before there were enough to tell."""
        return self._coverage.share

    def drift(self, in_service: Collection[str]) -> dict[str, float]:
        """Return the population stability index of the scores of each model in service, where it is known.

        What was seen of models that have left is forgotten.
        """
        found: dict[str, float] = {}
        for version, drift in list(self._drifts.items()):
            if version not in in_service:
                self._drifts.pop(version, None)
            elif (index := drift.index) is not None:
                found[version] = index
        return found

    def _drift(self, engine: Engine) -> Drift:
        drift = self._drifts.get(engine.model_version)
        if drift is None:
            while len(self._drifts) >= _MODELS:  # where nobody asks for drift, nobody tells which have left
                self._drifts.pop(next(iter(self._drifts)), None)
            drift = self._drifts[engine.model_version] = Drift(engine)
        return drift


_ASIDE = {"user_id", "k", "exclude_seen", "pinned", "language", "fit", "lean"}
_narrowing = attrgetter(*(each.name for each in fields(Question) if each.name not in _ASIDE))
_NARROWS_NOTHING = _narrowing(Question("", 1))


def _is_plain(question: Question, engine: Engine) -> bool:
    """Return whether a question asks for the best of the whole catalogue, as those of the reference do."""
    return question.exclude_seen in (None, engine.exclude_seen) and bool(_narrowing(question) == _NARROWS_NOTHING)


def _best(ranking: Ranking, effect: Effect) -> float:
    """Return the best product's score, wherever it stands; what pins have added, training knows nothing of."""
    learned = [ranking.parts[name] for name in _LEARNED if name in ranking.parts]
    return float(np.sum(learned, axis=0).max()) if effect.pins else float(sum(part[0] for part in learned))
