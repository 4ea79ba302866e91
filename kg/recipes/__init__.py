"""Documented explorations of the graph: a `.cypher` file each, whose head says what it shows and what it takes.

    // Products nobody bought
    //
    // What it answers, in a sentence or two.
    // Needs `kgrank publish`.
    //
    // $limit = 20: how many to show
    // $user: a parameter without a default must be given
    MATCH ...

A default is JSON, and tells the type that a given value must have. A whole number is from 0, or from 1 where it is a
length of time. The line about `kgrank publish`, word for word, is for those that answer from what that writes.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from kg.errors import ConfigError

_PARAMETER = re.compile(r"\$(?P<name>\w+)(?: = (?P<default>.+?))?: (?P<meaning>.+)")
_NEEDS_PUBLISH = "Needs `kgrank publish`."
_PERIODS = frozenset({"hours", "days"})


@dataclass(frozen=True)
class Parameter:
    """A parameter of a recipe; `default` is None where it must be given."""

    name: str
    default: Any
    meaning: str

    def parse(self, text: str) -> Any:
        """Return a value given as text, of the default's type.

        Raises:
            ConfigError: it is not of that type, or a number below the least.
        """
        if self.default is None or isinstance(self.default, str):
            return text
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(self.default, float) and isinstance(value, int):
            return float(value)
        if type(value) is not type(self.default):
            raise ConfigError(
                f"recipe parameter {self.name} can't be {text!r}", f"Give a value like {json.dumps(self.default)}."
            )
        least = 1 if self.name in _PERIODS else 0
        if isinstance(value, int) and value < least:
            raise ConfigError(f"recipe parameter {self.name} can't be {value}", f"Give a whole number from {least}.")
        return value


@dataclass(frozen=True)
class Recipe:
    """A named query with its head: `title`, what it answers, and its parameters."""

    name: str
    text: str

    @cached_property
    def _head(self) -> list[str]:
        lines = [line for line in self.text.splitlines() if line.startswith("//")]
        return [line.removeprefix("//").strip() for line in lines]

    @property
    def title(self) -> str:
        """The first line of the head."""
        return self._head[0]

    @property
    def answers(self) -> str:
        """What the recipe answers."""
        return " ".join(line for line in self._head[1:] if line and not line.startswith("$"))

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What it takes, in the order of its head."""
        found = [_PARAMETER.fullmatch(line) for line in self._head if line.startswith("$")]
        return tuple(
            Parameter(
                match["name"], None if match["default"] is None else json.loads(match["default"]), match["meaning"]
            )
            for match in found
            if match is not None
        )

    @property
    def usage(self) -> str:
        """Its parameters in one line: `user=VALUE limit=20`."""
        return " ".join(
            f"{each.name}=VALUE"
            if each.default is None
            else f"{each.name}={json.dumps(each.default, ensure_ascii=False)}"
            for each in self.parameters
        )

    @property
    def needs_publish(self) -> bool:
        """Whether it answers from what `kgrank publish` writes."""
        return _NEEDS_PUBLISH in self._head

    @property
    def cypher(self) -> str:
        """The query without its head."""
        return "\n".join(line for line in self.text.splitlines() if not line.startswith("//")).strip()

    def bind(self, assignments: list[str]) -> dict[str, Any]:
        """Return the parameters for `KEY=VALUE` texts, with defaults for the others.

        Raises:
            ConfigError: one is unknown, malformed, of another type, or missing.
        """
        known = {each.name: each for each in self.parameters}
        values = {each.name: each.default for each in self.parameters}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals or name not in known:
                wrong = f"has no parameter {name!r}" if equals else f"takes KEY=VALUE, not {assignment!r}"
                raise ConfigError(f"recipe {self.name} {wrong}", f"It takes: {self.usage or 'none'}.")
            values[name] = known[name].parse(text)
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise ConfigError(
                f"recipe {self.name} needs {', '.join(missing)}",
                f"Give it: kgrank graph recipe {self.name} --param {missing[0]}=...   ({known[missing[0]].meaning})",
            )
        return values


def load_recipes() -> list[Recipe]:
    """Return all recipes, by name."""
    found = [path for path in files(__package__).iterdir() if path.name.endswith(".cypher")]
    return [
        Recipe(path.name.removesuffix(".cypher"), path.read_text(encoding="utf-8"))
        for path in sorted(found, key=lambda path: path.name)
    ]


def load_recipe(name: str) -> Recipe:
    """Return one recipe.

    Raises:
        ConfigError: there is none of that name.
    """
    recipes = {recipe.name: recipe for recipe in load_recipes()}
    if name not in recipes:
        raise ConfigError(f"there is no recipe {name!r}", f"There are: {', '.join(recipes)}.")
    return recipes[name]
