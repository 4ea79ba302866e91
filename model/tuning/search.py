"""A search: trials of settings, drawn by Optuna's TPE, hopeless ones pruned after an epoch; killed, it goes on.

Everything that is known stands in one SQLite file. Trial n is drawn with seed n, from what the trials before it came
to, so a search that was killed goes on as if it had not been: the trial that was under way is done again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from kg.errors import ConfigError, MissingExtraError
from model.baselines.space import Axis, Choice, Whole
from model.errors import ModelError
from model.tuning.measures import Measure
from model.tuning.space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_log = structlog.get_logger(__name__)
_STUDY = "kgrank"
_REFUSED = "refused"
_BESIDE = "beside the ranges"
_TRIALS_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING = 4, 1
_TRIALS_BEFORE_IMPORTANCE = 8


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many trials in all, or so many minutes of this run; the first trial is finished."""

    trials: int
    minutes: float | None = None


@dataclass(frozen=True)
class Tried:
    """One trial: its settings, its value, None where it was pruned or failed, and how it ended."""

    number: int
    changed: Mapping[str, Any]
    value: float | None
    state: str


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        best: the best trial.
        trials: all of them.
        importance: setting to its share in the value's variance; empty with too few trials.
    """

    best: Tried
    trials: list[Tried]
    importance: Mapping[str, float]


def search(
    file: Path,
    space: Space,
    start: Mapping[str, Any],
    measure: Measure,
    budget: Budget,
    seed: int,
    on_trial: Callable[[Tried], None] = lambda tried: None,
) -> Found:
    """Search on until the budget is used up.

    Args:
        file: SQLite file of the search, new or left by a run of the same search.
        space: what is varied.
        start: the settings of the first trial, for keys of the space; they may lie beside its ranges (None, say).
        measure: what a trial is.
        budget: when it ends.
        seed: of the draws.
        on_trial: hears of every trial that ended.

    Raises:
        ModelError: no trial gave a value.
        MissingExtraError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"tuning needs the package {error.name}", "pip install '.[tune]' in kgrank's clone"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name=_STUDY,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_TRIALS_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING),
    )
    if not study.trials:
        beside = {key: value for key, value in start.items() if not _within(space[key], value)}
        within = {key: value for key, value in start.items() if key not in beside}
        _enqueue(study, within, beside)
    _do_again_what_was_cut_off(study)
    ends = None if budget.minutes is None else time.monotonic() + budget.minutes * 60
    while _counted(study) < budget.trials and not (_has_value(study) and _past(ends)):
        study.sampler = optuna.samplers.TPESampler(seed=seed + _counted(study))
        trial = study.ask()
        beside = trial.user_attrs.get(_BESIDE, {})
        changed = {key: beside[key] if key in beside else _draw(trial, key, axis) for key, axis in space.items()}

        def report(epoch: int, value: float, trial: "Trial" = trial) -> None:
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
            if _past(ends) and _has_value(study):
                raise _OutOfTimeError

        try:
            study.tell(trial, measure(changed, report))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except (ModelError, ConfigError) as error:  # values that are allowed one by one may not go together
            _log.warning("a trial failed", trial=trial.number, problem=error.problem)
            trial.set_user_attr(_REFUSED, error.problem)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        except _OutOfTimeError:
            break  # it stays as under way, and is done again
        on_trial(_tried(study.trials[trial.number]))
    trials = [_tried(trial) for trial in study.trials if _counts(trial)]
    values = [tried for tried in trials if tried.value is not None]
    if not values:
        raise ModelError(
            f"none of {len(trials)} trials gave a value", "See the warnings above; narrow the space with --space."
        )
    best = max(values, key=lambda tried: (tried.value or 0.0, -tried.number))
    return Found(best, trials, _importance(study, list(space), seed))


class _OutOfTimeError(Exception):
    pass


def _past(ends: float | None) -> bool:
    return ends is not None and time.monotonic() >= ends


def _counts(trial: "FrozenTrial") -> bool:
    """Return whether a trial ended by itself: it gave a value, was pruned, or can't be done."""
    return trial.state.name in ("COMPLETE", "PRUNED") or _REFUSED in trial.user_attrs


def _counted(study: "Study") -> int:
    return sum(_counts(trial) for trial in study.trials)


def _has_value(study: "Study") -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.trials)


def _do_again_what_was_cut_off(study: "Study") -> None:
    """Put trials that a killed run left under way back into the queue."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        beside = trial.user_attrs.get(_BESIDE, {})
        if trial.params or beside:
            _enqueue(study, trial.params, beside)


def _enqueue(study: "Study", within: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Let the next trial be of these settings; a range can't be asked for those beside it."""
    study.enqueue_trial(dict(within), user_attrs={_BESIDE: dict(beside)} if beside else None)


def _within(axis: Axis, value: Any) -> bool:
    if isinstance(axis, Choice):
        return value in axis.values
    return value is not None and bool(axis.low <= value <= axis.high)


def _draw(trial: "Trial", key: str, axis: Axis) -> Any:
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, axis.values)
    if isinstance(axis, Whole):
        return trial.suggest_int(key, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, log=axis.log)


def _tried(trial: "FrozenTrial") -> Tried:
    complete = trial.state.name == "COMPLETE"
    changed = trial.params | trial.user_attrs.get(_BESIDE, {})
    return Tried(trial.number, changed, trial.value if complete else None, trial.state.name.lower())


def _importance(study: "Study", keys: list[str], seed: int) -> dict[str, float]:
    """Return the share of each setting in the variance of the value, by fANOVA (Hutter et al. 2014)."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in study.trials) < _TRIALS_BEFORE_IMPORTANCE:
        return {}
    try:
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed), params=keys)
    except (ValueError, RuntimeError):  # all values are the same
        return {}
