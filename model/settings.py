"""The settings of one run, and how dotted keys change them: what comparisons and searches vary."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kg.errors import ConfigError
from model.case import SplitConfig
from model.config import FinetuneConfig, ModelConfig, TrainConfig

Settings = TypeVar("Settings", bound=BaseModel)


class RunSettings(BaseModel):
    """All that a training run is told: the [model], [train], [finetune] and [split] sections of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    split: SplitConfig = SplitConfig()

    def with_overrides(self, overrides: Mapping[str, Any]) -> "RunSettings":
        """Return the settings with some changed, named by dotted keys (`model.layers`).

        Raises:
            ConfigError: there is no such setting, or a value is out of range.
        """
        changed = self.model_dump(mode="json")
        for key, value in overrides.items():
            *path, name = key.split(".")
            place: Any = changed
            for part in path:
                place = place.get(part) if isinstance(place, dict) else None
            if not isinstance(place, dict) or name not in place:
                raise ConfigError(f"there is no setting {key!r}", "`kgrank config` lists every setting.")
            place[name] = value
        return validated(RunSettings, changed)


def read_run_settings(file: Path) -> RunSettings:
    """Read the sections of a configuration file that tell a run what to do; other sections are left alone.

    Raises:
        ConfigError: the file is not there or malformed, or a value is out of range.
    """
    whole = read_toml(file)
    return validated(RunSettings, {name: whole[name] for name in RunSettings.model_fields if name in whole}, file)


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it is not there, or malformed.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {file} can't be read: {error.strerror}", "Check its path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file} is not valid TOML: {error}", "Mend that line.") from error


def validated(kind: type[Settings], values: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Return validated settings.

    Raises:
        ConfigError: a field is unknown, or its value out of range; names the first one.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        where = f"{file}: " if file else ""
        raise ConfigError(f"{where}{place or kind.__name__}: {problem['msg']}{got}", "Mend that setting.") from error
