"""What a search varies: dotted settings and their ranges, for our network and for its peers alike.

The ranges of peers stand beside them (`model.baselines`); those of the network stand here. A TOML file replaces them:

    [space]
    "model.dropout" = { low = 0.1, high = 0.6 }
    "train.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
    "model.dimension" = [64, 128, 256]
    "model.transitions" = true            # the whole range of the setting

No value is out of the range that the setting itself allows: that is checked before anything runs.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kg.errors import ConfigError
from model.baselines import BASELINES
from model.baselines.space import Axis, Choice, Real, Whole
from model.settings import RunSettings, validated

NETWORK = "kgrank"
"""The name of our own model among those that can be tuned."""

Space = Mapping[str, Axis]

_NOT_VARIED = {
    "split": "the split is made once, for all trials",
    "train.refit": "no trial is trained again",
    "train.refit_epochs": "no trial is trained again",
    "train.refit_step": "no trial is trained again",
    "train.seed": "it decides who is asked, for all trials alike",
    "train.validation_users": "it decides who is asked, for all trials alike",
}
"""Settings of a run, or their sections, that a search has no say in: its best value of them would mean nothing."""

NETWORK_SPACE: Space = {
    "train.learning_rate": Real(3e-4, 5e-3, log=True),
    "train.weight_decay": Real(1e-4, 0.3, log=True),
    "train.batch_users": Choice((128, 256, 512)),
    "model.dimension": Choice((64, 128, 192, 256)),
    "model.layers": Whole(0, 3),
    "model.temperature": Real(0.04, 0.2, log=True),
    "model.dropout": Real(0.1, 0.6),
    "model.id_dropout": Real(0.0, 0.5),
    "model.history_length": Choice((10, 20, 50)),
    "model.max_transitions": Choice((16, 64, 256)),
    "model.text_decay": Real(0.3, 0.9),
}


def default_space(model: str) -> Space:
    """Return what is varied of a model unless a file says otherwise.

    Raises:
        ConfigError: there is no such model, or it has nothing to vary.
    """
    if model == NETWORK:
        return NETWORK_SPACE
    if model not in BASELINES:
        raise ConfigError(f"there is no model {model!r}", f"Choose from: {', '.join([NETWORK, *BASELINES])}.")
    if not BASELINES[model].space:
        raise ConfigError(f"model {model} has no settings to vary", "Choose another with --model.")
    return BASELINES[model].space


def parse_space(table: Mapping[str, Any], settings: BaseModel) -> Space:
    """Return the ranges of a `[space]` table; keys are dotted, or tables within.

    Raises:
        ConfigError: a range is malformed, there is no such setting, or a search has no say in it.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"space: {table!r} is not a table", "Write [space], and a setting on each line below it.")
    space = {key: _axis(key, told, settings) for key, told in _flat(table)}
    for key in space if isinstance(settings, RunSettings) else ():
        if why := _NOT_VARIED.get(key) or _NOT_VARIED.get(key.partition(".")[0]):
            raise ConfigError(f"space.{key}: {why}", "Leave it out; the configuration file says it for all trials.")
    if not space:
        raise ConfigError("[space] is empty", 'Name a setting: "model.dropout" = { low = 0.1, high = 0.6 }')
    return space


def check_space(space: Space, settings: BaseModel) -> None:
    """Make sure that every end of every range is a value that the setting allows.

    Raises:
        ConfigError: one is not; names it.
    """
    for key, axis in space.items():
        for value in axis.values if isinstance(axis, Choice) else (axis.low, axis.high):
            overridden(settings, {key: value})


def overridden(settings: BaseModel, values: Mapping[str, Any]) -> BaseModel:
    """Return settings with some changed: of a run by dotted keys, of a peer by its fields.

    Raises:
        ConfigError: there is no such setting, or a value is out of range.
    """
    if isinstance(settings, RunSettings):
        return settings.with_overrides(values)
    return validated(type(settings), settings.model_dump() | dict(values))


def start_of(space: Space, settings: BaseModel) -> dict[str, Any]:
    """Return the values that the settings of a space have now."""
    values = settings.model_dump(mode="json")
    start = {}
    for key in space:
        place: Any = values
        for part in key.split("."):
            place = place[part]
        start[key] = place
    return start


def widened(space: Space, start: Mapping[str, Any]) -> Space:
    """Return the space with room for where a search starts; a range that can't have room for it stays as it is."""
    wide: dict[str, Axis] = {}
    for key, axis in space.items():
        value = start[key]
        if isinstance(axis, Choice):
            wide[key] = axis if value in axis.values else Choice((*axis.values, value))
        elif value is None or (axis.log and value <= 0):
            wide[key] = axis
        else:
            wide[key] = replace(axis, low=min(axis.low, value), high=max(axis.high, value))
    return wide


def describe(space: Space) -> dict[str, Any]:
    """Return the ranges as plain values."""
    return {
        key: list(axis.values) if isinstance(axis, Choice) else {"low": axis.low, "high": axis.high, "log": axis.log}
        for key, axis in sorted(space.items())
    }


def field_of(key: str, settings: BaseModel) -> FieldInfo:
    """Return the field that a dotted key names.

    Raises:
        ConfigError: there is none.
    """
    place: object = settings
    *path, name = key.split(".")
    for part in path:
        place = getattr(place, part, None)
    if not isinstance(place, BaseModel) or name not in type(place).model_fields:
        raise ConfigError(f"there is no setting {key!r}", "`kgrank config` lists every setting.")
    return type(place).model_fields[name]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, told in table.items():
        if isinstance(told, Mapping) and not ({"low", "high", "log"} & set(told)):
            yield from _flat(told, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", told


def _axis(key: str, told: Any, settings: BaseModel) -> Axis:
    field = field_of(key, settings)
    if told is True:
        return _whole_range(key, field)
    if isinstance(told, list) and told and all(isinstance(value, bool | int | float | str) for value in told):
        return Choice(tuple(told))
    if isinstance(told, Mapping) and {"low", "high"} <= set(told) <= {"low", "high", "log"}:
        low, high, log = told["low"], told["high"], bool(told.get("log", False))
        whole = field.annotation is int
        if _is_number(low, whole) and _is_number(high, whole) and low < high and (low > 0 or not log):
            if whole:
                return Whole(int(low), int(high), log)
            return Real(float(low), float(high), log)
    raise ConfigError(
        f"space.{key}: {told!r} is not a range",
        "Write { low = .., high = .. } with low < high (log = true for positive ones), a list of values, or true.",
    )


def _is_number(end: Any, whole: bool) -> bool:
    """Return whether an end of a range is a number, a whole one if asked for; infinity is none."""
    known = isinstance(end, int | float) and not isinstance(end, bool) and abs(end) <= sys.float_info.max
    return known and (not whole or end == int(end))


def _whole_range(key: str, field: FieldInfo) -> Axis:
    """Return all that a setting allows."""
    if field.annotation is bool:
        return Choice((False, True))
    if get_origin(field.annotation) is Literal:
        return Choice(get_args(field.annotation))
    low = next((rule.ge for rule in field.metadata if isinstance(rule, annotated_types.Ge)), None)
    high = next((rule.le for rule in field.metadata if isinstance(rule, annotated_types.Le)), None)
    if low is None or high is None:
        raise ConfigError(f"space.{key}: the setting has no range of its own", "Write { low = .., high = .. }.")
    return Whole(int(str(low)), int(str(high))) if field.annotation is int else Real(float(str(low)), float(str(high)))
