"""A search: trials of settings, drawn by Optuna's TPE, hopeless ones pruned after an epoch; killed, it goes on.

Everything that is known stands in one SQLite file, which one run at a time has to itself. Trial n is drawn with seed
n, from what the trials before it came to, so a search that was killed goes on as if it had not been: the trial that was
under way is done again. One that is cut off twice (by a kernel that has no memory left, say) counts as tried.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import torch

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
_CUT_OFF = "cut off before"
_TRIALS_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING = 4, 1
_TRIALS_BEFORE_IMPORTANCE = 8


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many trials in all, or so many minutes of this run; the first trial is finished.

    Without a value yet, the trial that is under way when the time is up is finished, too.
    """

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
        ModelError: no trial gave a value, or another run of the same search is under way.
        MissingExtraError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"tuning needs the package {error.name}", "pip install '.[tune]' in kgrank's clone"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _to_itself(file):
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
        _do_again_what_was_cut_off(study, space)
        ends = None if budget.minutes is None else time.monotonic() + budget.minutes * 60
        while (counted := _counted(study)) < budget.trials and not (counted and _past(ends)):
            study.sampler = optuna.samplers.TPESampler(seed=seed + counted)
            trial = study.ask()

            def report(epoch: int, value: float, trial: "Trial" = trial) -> None:
                trial.report(value, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
                if _past(ends) and _has_value(study):
                    raise _OutOfTimeError

            try:
                study.tell(trial, measure(_drawn(trial, space), report))
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except _OutOfTimeError:
                _do_again(study, study.trials[trial.number], space)
                break
            except KeyboardInterrupt:
                _do_again(study, study.trials[trial.number], space)
                raise
            except Exception as error:
                if (problem := _why_refused(error)) is None:
                    _do_again(study, study.trials[trial.number], space)
                    raise
                _refuse(study, trial, problem)
            on_trial(_tried(study.trials[trial.number]))
        return _found(study, space, seed)


def _found(study: "Study", space: Space, seed: int) -> Found:
    trials = [_tried(trial) for trial in study.trials if _counts(trial)]
    values = [tried for tried in trials if tried.value is not None]
    if not values:
        raise ModelError(
            f"none of {len(trials)} trials gave a value", "See the warnings above; narrow the space with --space."
        )
    best = max(values, key=lambda tried: (tried.value or 0.0, -tried.number))
    return Found(best, trials, _importance(study, list(space), seed))


@contextmanager
def _to_itself(file: Path) -> Iterator[None]:
    """Keep other runs away from a search until the end of the block.

    Raises:
        ModelError: there is one, or the folder can't be written.
    """
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(file.with_name(f".{file.name}.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(
                f"another run of this search is under way in {file.parent}", "Wait until it ends, or stop it."
            ) from error
        except OSError as error:
            raise ModelError(
                f"a search can't be kept in {file.parent}: {error.strerror or error}",
                "Choose a home folder that may be written, on a disk that can lock files.",
            ) from error
        yield


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


def _why_refused(error: Exception) -> str | None:
    """Return what is wrong with a trial's settings; None where the error says nothing of them."""
    if isinstance(error, ModelError | ConfigError):  # values that are allowed one by one may not go together
        return error.problem
    # On a processor torch says it by a plain RuntimeError.
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return f"it takes more memory than there is: {str(error).partition(chr(10))[0]}" if no_memory else None


def _refuse(study: "Study", trial: "Trial", problem: str) -> None:
    """End a trial as one that can't be done; it counts as tried."""
    from optuna.trial import TrialState

    _log.warning("a trial failed", trial=trial.number, problem=problem)
    trial.set_user_attr(_REFUSED, problem)
    study.tell(trial, state=TrialState.FAIL)


def _do_again_what_was_cut_off(study: "Study", space: Space) -> None:
    """Put trials that a killed run left under way back into the queue, each once."""
    from optuna.trial import Trial, TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(_CUT_OFF):
            _refuse(study, Trial(study, trial._trial_id), "it was cut off twice: it may take more memory than there is")
        else:
            _do_again(study, trial, space, cut_off=True)


def _do_again(study: "Study", trial: "FrozenTrial", space: Space, *, cut_off: bool = False) -> None:
    """Put a trial back into the queue; `cut_off` where nobody meant to end it."""
    from optuna.trial import TrialState

    beside = trial.user_attrs.get(_BESIDE, {})
    # One that was cut off while it was being drawn is drawn anew, by the same seed, but for what was asked for.
    drawn = trial.params if len(trial.params) + len(beside) == len(space) else {}
    within = trial.system_attrs.get("fixed_params", {}) | drawn
    if within or beside:
        _enqueue(study, within, beside, cut_off=cut_off or trial.user_attrs.get(_CUT_OFF, False))
    study.tell(trial.number, state=TrialState.FAIL)


def _enqueue(study: "Study", within: Mapping[str, Any], beside: Mapping[str, Any], *, cut_off: bool = False) -> None:
    """Let the next trial be of these settings; a range can't be asked for those beside it."""
    attributes: dict[str, Any] = {_BESIDE: dict(beside)} if beside else {}
    if cut_off:
        attributes[_CUT_OFF] = True
    study.enqueue_trial(dict(within), user_attrs=attributes)


def _within(axis: Axis, value: Any) -> bool:
    if isinstance(axis, Choice):
        return value in axis.values
    return value is not None and bool(axis.low <= value <= axis.high)


def _drawn(trial: "Trial", space: Space) -> dict[str, Any]:
    """Return a trial's settings: those that were asked for, the others drawn."""
    beside = trial.user_attrs.get(_BESIDE, {})
    return {key: beside[key] if key in beside else _draw(trial, key, axis) for key, axis in space.items()}


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
